#include "runtime/text/jinja/template.h"

#include "runtime/text/jinja/globals.h"
#include "runtime/text/jinja/interpreter.h"
#include "runtime/text/jinja/parser.h"

namespace tokenferry {

struct JinjaTemplate::Contents {
  JinjaSource source;
  JinjaBody body;
};

absl::StatusOr<JinjaTemplate> JinjaTemplate::Parse(absl::string_view text, absl::string_view name) {
  constexpr size_t kMaxBytes = size_t{1} << 20;
  if (text.size() > kMaxBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": a template of ", text.size(), " bytes; at most ", kMaxBytes, " are allowed"));
  }
  auto contents = std::make_shared<Contents>(Contents{JinjaSource(text, name), {}});
  TF_ASSIGN_OR_RETURN(contents->body, ParseJinja(contents->source));
  return JinjaTemplate(std::move(contents));
}

absl::StatusOr<TaggedText> JinjaTemplate::Render(const JinjaVariables& variables, absl::CivilSecond now,
                                                 const JinjaLimits& limits) const {
  JinjaRuntime runtime(limits, now);
  JinjaScope globals(nullptr);
  TF_ASSIGN_OR_RETURN(const auto functions, JinjaGlobals(runtime));
  for (const auto& [name, value] : functions) globals.Set(name, value);
  for (const auto& [name, value] : variables) globals.Set(name, value);
  JinjaScope scope(&globals);
  TaggedText out;
  TF_RETURN_IF_ERROR(JinjaInterpreter(contents_->source, runtime).Run(contents_->body, scope, out));
  return out;
}

}  // namespace tokenferry

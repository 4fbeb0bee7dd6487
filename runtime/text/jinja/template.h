// Jinja2 templates, as Hugging Face models have them for their chats.
//
// The language is that of jinja2 3.1 in transformers' environment: trim_blocks, lstrip_blocks, break and continue,
// values that templates cannot change (but for namespaces), undefined values that print nothing and fail when they are
// used. In: if, for (else, if, recursive, loop.*), set (blocks too), with, macro, call, filter, raw, generation; all
// operators, calls without `*args`; the tests; the filters but pprint, random, filesizeformat, urlize, xmlattr,
// striptags, wordwrap and slice; methods of str, dict and list; range, dict, namespace, raise_exception, strftime_now.
// What is not there is refused by name when a template is parsed. Integers have 64 bits where they are computed with.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/civil_time.h"
#include "core/status.h"
#include "runtime/text/jinja/budget.h"
#include "runtime/text/jinja/value.h"
#include "runtime/text/tagged_text.h"

namespace tokenferry {

using JinjaVariables = std::vector<std::pair<std::string, JinjaValue>>;  // a later one of the same name wins

// Immutable; copies share their contents; may be used from any thread.
class JinjaTemplate {
 public:
  // `name` stands for the file in errors: "NAME:LINE:COLUMN: WHAT". Templates up to 1 MiB.
  static absl::StatusOr<JinjaTemplate> Parse(absl::string_view text, absl::string_view name);

  // The text, each part tagged: what the template wrote as TextOrigin::kModel, what came in with the variables as they
  // are tagged there. InvalidArgument where the template raises or fails, ResourceExhausted beyond the limits.
  absl::StatusOr<TaggedText> Render(const JinjaVariables& variables, absl::CivilSecond now,
                                    const JinjaLimits& limits = {}) const;

 private:
  struct Contents;
  explicit JinjaTemplate(std::shared_ptr<const Contents> contents) : contents_(std::move(contents)) {}
  std::shared_ptr<const Contents> contents_;
};

}  // namespace tokenferry

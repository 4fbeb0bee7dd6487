// Input: a chat template, a zero byte, the JSON of its variables. Whatever both are, rendering ends within its limits,
// its text is valid UTF-8 where the origins' runs cover it, and an error is one line.
#include <cstdint>
#include <string>

#include "core/check.h"
#include "runtime/text/jinja/template.h"
#include "runtime/text/jinja/value_json.h"
#include "runtime/text/unicode.h"

namespace tokenferry {
namespace {

JinjaVariables Variables(absl::string_view json) {
  JinjaVariables variables;
  const absl::StatusOr<JinjaValue> value = ParseJinjaJson(json, "variables");
  if (!value.ok() || value->dict() == nullptr) return variables;
  for (const auto& [name, member] : value->dict()->members()) variables.emplace_back(name.text()->text(), member);
  return variables;
}

void CheckText(const TaggedText& text) {
  TF_CHECK(IsValidUtf8(text.text()));
  size_t begin = 0;
  for (const TaggedText::Run& run : text.runs()) {
    TF_CHECK(begin < run.end);
    begin = run.end;
  }
  TF_CHECK(begin == text.size());
}

void CheckError(const absl::Status& status) {
  TF_CHECK(!status.message().empty());
  TF_CHECK(status.message().size() < 1100);
  TF_CHECK(status.message().find('\n') == absl::string_view::npos);
}

}  // namespace
}  // namespace tokenferry

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace tokenferry;
  const absl::string_view input(reinterpret_cast<const char*>(bytes), size);
  const size_t zero = input.find('\0');
  const absl::StatusOr<JinjaTemplate> parsed = JinjaTemplate::Parse(input.substr(0, zero), "fuzz");
  if (!parsed.ok()) {
    CheckError(parsed.status());
    return 0;
  }
  const absl::string_view json = zero == absl::string_view::npos ? "{}" : input.substr(zero + 1);
  const JinjaLimits limits{.max_steps = 200'000, .max_output_bytes = 1 << 20};
  const absl::StatusOr<TaggedText> text =
      parsed->Render(Variables(json), absl::CivilSecond(2025, 3, 7, 14, 5, 9), limits);
  text.ok() ? CheckText(*text) : CheckError(text.status());
  return 0;
}

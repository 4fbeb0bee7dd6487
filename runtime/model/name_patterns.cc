#define PCRE2_CODE_UNIT_WIDTH 8
#include "runtime/model/name_patterns.h"

#include <pcre2.h>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/io/foreign_text.h"

namespace tokenferry {
namespace {

constexpr size_t kMaxPatternBytes = 4096;
constexpr uint32_t kMatchLimit = 100'000;  // backtracks; names are short

// What a pattern that is no expression means, as one.
std::string ExpressionOf(absl::string_view pattern) {
  std::string expression = "(?:.*\\.)?";
  for (const char c : pattern) {
    if (c == '*') {
      expression += ".*";
    } else if (absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_') {
      expression += c;
    } else {
      absl::StrAppend(&expression, "\\x{", absl::Hex(static_cast<uint8_t>(c)), "}");
    }
  }
  return expression + "(?:\\.|$)";
}

std::string MessageOf(int error) {
  PCRE2_UCHAR message[256] = {};
  pcre2_get_error_message(error, message, sizeof(message));
  return reinterpret_cast<const char*>(message);
}

}  // namespace

struct NamePatterns::Code {
  explicit Code(pcre2_code* compiled) : code(compiled, pcre2_code_free) {}
  std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)> code;
};

absl::StatusOr<NamePatterns> NamePatterns::Compile(const std::vector<std::string>& patterns) {
  NamePatterns result;
  for (const std::string& text : patterns) {
    if (text.size() > kMaxPatternBytes) {
      return absl::InvalidArgumentError(absl::StrCat("a pattern of ", text.size(), " bytes: ", Excerpt(text)));
    }
    const std::string expression = absl::StartsWith(text, "re:") ? text.substr(3) : ExpressionOf(text);
    int error = 0;
    PCRE2_SIZE at = 0;
    pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(expression.data()), expression.size(),
                                     PCRE2_ANCHORED | PCRE2_NEVER_UTF, &error, &at, nullptr);
    if (code == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("the pattern '", Excerpt(text), "': ", MessageOf(error), " at character ", at));
    }
    result.patterns_.push_back({text, std::make_shared<const Code>(code)});
  }
  return result;
}

absl::StatusOr<const std::string*> NamePatterns::FindMatch(absl::string_view name) const {
  const std::string* const none = nullptr;
  if (patterns_.empty()) return none;
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(pcre2_match_data_create(1, nullptr),
                                                                                 pcre2_match_data_free);
  const std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context(
      pcre2_match_context_create(nullptr), pcre2_match_context_free);
  TF_CHECK(data != nullptr && context != nullptr);
  pcre2_set_match_limit(context.get(), kMatchLimit);
  for (const Pattern& pattern : patterns_) {
    const int rc = pcre2_match(pattern.code->code.get(), reinterpret_cast<PCRE2_SPTR>(name.data()), name.size(), 0, 0,
                               data.get(), context.get());
    if (rc >= 0) return &pattern.text;
    if (rc == PCRE2_ERROR_NOMATCH) continue;
    return absl::InvalidArgumentError(absl::StrCat("whether the pattern '", Excerpt(pattern.text), "' matches '",
                                                   Excerpt(name), "' cannot be told: ", MessageOf(rc)));
  }
  return none;
}

}  // namespace tokenferry

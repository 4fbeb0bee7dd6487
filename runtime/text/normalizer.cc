#include "runtime/text/normalizer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "runtime/text/pretokenizer_load.h"

namespace tokenferry {
namespace {

using View = absl::string_view;

// Each run changed by `change`, which appends to its second argument.
template <class Change>
TaggedText RunByRun(const TaggedText& text, Change change) {
  TaggedText out;
  size_t begin = 0;
  std::string changed;
  for (const TaggedText::Run& run : text.runs()) {
    changed.clear();
    change(View(text.text()).substr(begin, run.end - begin), changed);
    out.Append(changed, run.origin);
    begin = run.end;
  }
  return out;
}

void ReplaceLiteral(View text, View literal, View content, std::string& out) {
  size_t begin = 0;
  for (size_t at = text.find(literal); at != View::npos; at = text.find(literal, begin)) {
    out.append(text.data() + begin, at - begin);
    out.append(content.data(), content.size());
    begin = at + literal.size();
  }
  out.append(text.data() + begin, text.size() - begin);
}

TaggedText Replaced(const NormalizeReplace& step, const TaggedText& text) {
  // A single character lies within one run.
  if (!step.literal.empty() && (text.runs().size() == 1 || step.literal.size() == 1)) {
    return RunByRun(text, [&](View run, std::string& out) { ReplaceLiteral(run, step.literal, step.content, out); });
  }
  TaggedText out;
  size_t begin = 0;
  for (const MatchSpan& match : step.regex.FindAll(text.text())) {
    out.AppendRange(text, begin, match.begin);
    out.Append(step.content, text.Range(match.begin, match.end).Mixed());
    begin = match.end;
  }
  out.AppendRange(text, begin, text.size());
  return out;
}

void AppendLower(View text, std::string& out) {
  constexpr char32_t kCapitalIWithDot = 0x130, kDotAbove = 0x307;
  for (size_t pos = 0; pos < text.size();) {
    const char32_t c = DecodeUtf8(text, pos);
    AppendUtf8(LowercaseOf(c), out);
    if (c == kCapitalIWithDot) AppendUtf8(kDotAbove, out);
  }
}

TaggedText Apply(const NormalizerStep& step, TaggedText text) {
  if (const auto* form = std::get_if<UnicodeForm>(&step)) {
    return RunByRun(text, [form](View run, std::string& out) { out = NormalizeUnicode(run, *form); });
  }
  if (const auto* prepend = std::get_if<NormalizePrepend>(&step)) {
    if (text.empty()) return text;
    TaggedText out(prepend->text, TextOrigin::kModel);
    out.Append(text);
    return out;
  }
  if (const auto* replace = std::get_if<NormalizeReplace>(&step)) return Replaced(*replace, text);
  if (const auto* strip = std::get_if<NormalizeStrip>(&step)) {
    const size_t begin = strip->left ? LeadingWhiteSpace(text.text()) : 0;
    const size_t tail = strip->right ? TrailingWhiteSpace(text.text()) : 0;
    return text.Range(begin, std::max(begin, text.size() - tail));
  }
  return RunByRun(text, AppendLower);
}

class NormalizerLoader {
 public:
  absl::Status Add(const JsonNode& node, int depth) {
    TF_ASSIGN_OR_RETURN(JsonNode type_node, node.Child("type"));
    TF_ASSIGN_OR_RETURN(std::string type, type_node.String());
    static constexpr std::array<std::pair<View, UnicodeForm>, 4> kForms = {
        {{"NFC", UnicodeForm::kC}, {"NFD", UnicodeForm::kD}, {"NFKC", UnicodeForm::kKC}, {"NFKD", UnicodeForm::kKD}}};
    for (const auto& [name, form] : kForms) {
      if (type != name) continue;
      result_.steps.emplace_back(form);
      return absl::OkStatus();
    }
    if (type == "Lowercase") {
      result_.steps.emplace_back(NormalizeLowercase());
      return absl::OkStatus();
    }
    if (type == "Prepend") return AddPrepend(node);
    if (type == "Replace") return AddReplace(node);
    if (type == "Strip") return AddStrip(node);
    if (type != "Sequence") return type_node.NotSupported(absl::StrCat("normalizer ", Shown(type)));
    if (depth == kMaxSequenceDepth) return node.NotSupported("Sequences nested this deep");
    TF_ASSIGN_OR_RETURN(JsonNode list, node.Child("normalizers"));
    TF_ASSIGN_OR_RETURN(std::vector<JsonNode> members, list.Elements());
    for (const JsonNode& member : members) TF_RETURN_IF_ERROR(Add(member, depth + 1));
    return absl::OkStatus();
  }

  Normalizer Take() { return std::move(result_); }

 private:
  absl::Status AddPrepend(const JsonNode& node) {
    TF_ASSIGN_OR_RETURN(JsonNode text_node, node.Child("prepend"));
    TF_ASSIGN_OR_RETURN(std::string text, text_node.String());
    result_.steps.emplace_back(NormalizePrepend{std::move(text)});
    return absl::OkStatus();
  }
  absl::Status AddReplace(const JsonNode& node) {
    TF_ASSIGN_OR_RETURN(JsonNode pattern, node.Child("pattern"));
    TF_ASSIGN_OR_RETURN(SplitRegex regex, LoadPattern(pattern));
    TF_ASSIGN_OR_RETURN(std::string literal, pattern.StringOr("String", ""));
    TF_ASSIGN_OR_RETURN(JsonNode content_node, node.Child("content"));
    TF_ASSIGN_OR_RETURN(std::string content, content_node.String());
    result_.steps.emplace_back(NormalizeReplace{std::move(regex), std::move(literal), std::move(content)});
    return absl::OkStatus();
  }
  absl::Status AddStrip(const JsonNode& node) {
    TF_ASSIGN_OR_RETURN(const bool left, node.BoolOr("strip_left", true));
    TF_ASSIGN_OR_RETURN(const bool right, node.BoolOr("strip_right", true));
    result_.steps.emplace_back(NormalizeStrip{left, right});
    return absl::OkStatus();
  }

  Normalizer result_;
};

}  // namespace

TaggedText Normalizer::Apply(TaggedText text) const {
  for (const NormalizerStep& step : steps) text = tokenferry::Apply(step, std::move(text));
  return text;
}

absl::StatusOr<Normalizer> LoadNormalizer(const JsonNode& root) {
  TF_ASSIGN_OR_RETURN(std::optional<JsonNode> node, root.Optional("normalizer"));
  if (!node) return Normalizer();
  NormalizerLoader loader;
  TF_RETURN_IF_ERROR(loader.Add(*node, 0));
  return loader.Take();
}

}  // namespace tokenferry

#include "runtime/text/pretokenizer_load.h"

#include <array>
#include <utility>

namespace tokenferry {
namespace {

constexpr absl::string_view kGpt2Regex =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

absl::StatusOr<SplitBehavior> LoadBehavior(const JsonNode& node) {
  static constexpr std::array<std::pair<absl::string_view, SplitBehavior>, 5> kBehaviors = {{
      {"Isolated", SplitBehavior::kIsolated},
      {"Removed", SplitBehavior::kRemoved},
      {"MergedWithPrevious", SplitBehavior::kMergedWithPrevious},
      {"MergedWithNext", SplitBehavior::kMergedWithNext},
      {"Contiguous", SplitBehavior::kContiguous},
  }};
  TF_ASSIGN_OR_RETURN(std::string name, node.String());
  for (const auto& [known, behavior] : kBehaviors) {
    if (name == known) return behavior;
  }
  return node.NotSupported(absl::StrCat("split behaviour ", Shown(name)));
}

}  // namespace

absl::StatusOr<SplitRegex> LoadPattern(const JsonNode& node) {
  TF_ASSIGN_OR_RETURN(std::optional<JsonNode> regex, node.Optional("Regex"));
  if (regex) {
    TF_ASSIGN_OR_RETURN(std::string text, regex->String());
    absl::StatusOr<SplitRegex> compiled = SplitRegex::Compile(text);
    if (!compiled.ok()) return Annotate(compiled.status(), absl::StrCat(regex->Where(), ": ", regex->path()));
    return compiled;
  }
  TF_ASSIGN_OR_RETURN(JsonNode literal, node.Child("String"));
  TF_ASSIGN_OR_RETURN(std::string text, literal.String());
  absl::StatusOr<SplitRegex> compiled = SplitRegex::Literal(text);
  if (!compiled.ok()) return Annotate(compiled.status(), absl::StrCat(literal.Where(), ": ", literal.path()));
  return compiled;
}

namespace {

absl::StatusOr<SplitStep> LoadSplit(const JsonNode& node) {
  TF_ASSIGN_OR_RETURN(JsonNode pattern, node.Child("pattern"));
  TF_ASSIGN_OR_RETURN(SplitRegex regex, LoadPattern(pattern));
  TF_ASSIGN_OR_RETURN(JsonNode behavior_node, node.Child("behavior"));
  TF_ASSIGN_OR_RETURN(SplitBehavior behavior, LoadBehavior(behavior_node));
  TF_ASSIGN_OR_RETURN(bool invert, node.BoolOr("invert", false));
  return SplitStep{std::move(regex), behavior, invert};
}

absl::StatusOr<SplitStep> LoadDigits(const JsonNode& node) {
  TF_ASSIGN_OR_RETURN(bool individual, node.BoolOr("individual_digits", false));
  TF_ASSIGN_OR_RETURN(SplitRegex regex, SplitRegex::Compile("\\p{N}"));
  return SplitStep{std::move(regex), individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous, false};
}

// Word characters of UTS 18, which `\\w` is in the reference's regular expressions; IsWord() in unicode.h is the same.
constexpr absl::string_view kWord = R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{200c}\x{200d}\x{24b6}-\x{24e9})"
                                    R"(\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189})";

absl::StatusOr<SplitStep> LoadWhitespace(const JsonNode&) {
  TF_ASSIGN_OR_RETURN(SplitRegex regex, SplitRegex::Compile(absl::StrCat("[", kWord, "]+|[^", kWord, "\\s]+")));
  return SplitStep{std::move(regex), SplitBehavior::kRemoved, /*invert=*/true};
}

absl::StatusOr<SplitStep> LoadWhitespaceSplit(const JsonNode&) {
  TF_ASSIGN_OR_RETURN(SplitRegex regex, SplitRegex::Compile("\\s"));
  return SplitStep{std::move(regex), SplitBehavior::kRemoved, /*invert=*/false};
}

absl::StatusOr<SplitStep> LoadPunctuation(const JsonNode& node) {
  SplitBehavior behavior = SplitBehavior::kIsolated;
  TF_ASSIGN_OR_RETURN(std::optional<JsonNode> behavior_node, node.Optional("behavior"));
  if (behavior_node) {
    TF_ASSIGN_OR_RETURN(behavior, LoadBehavior(*behavior_node));
  }
  TF_ASSIGN_OR_RETURN(SplitRegex regex, SplitRegex::Compile(R"([!-/:-@\[-`{-~\p{P}])"));
  return SplitStep{std::move(regex), behavior, /*invert=*/false};
}

absl::StatusOr<SplitStep> LoadCharDelimiter(const JsonNode& node) {
  TF_ASSIGN_OR_RETURN(JsonNode delimiter, node.Child("delimiter"));
  TF_ASSIGN_OR_RETURN(std::string text, delimiter.String());
  if (text.empty()) return delimiter.Error("must not be empty");
  TF_ASSIGN_OR_RETURN(SplitRegex regex, SplitRegex::Literal(text));
  return SplitStep{std::move(regex), SplitBehavior::kRemoved, /*invert=*/false};
}

absl::StatusOr<MetaspaceStep> LoadMetaspace(const JsonNode& node) {
  using Prepend = MetaspaceStep::Prepend;
  TF_ASSIGN_OR_RETURN(std::string mark, node.StringOr("replacement", "\u2581"));
  if (mark.empty()) return node.NotSupported("an empty replacement");
  if (mark == " ") return node.NotSupported("a space as the replacement of spaces");
  TF_ASSIGN_OR_RETURN(const bool split, node.BoolOr("split", true));
  // Files of early versions say add_prefix_space.
  TF_ASSIGN_OR_RETURN(const bool add_prefix, node.BoolOr("add_prefix_space", true));
  TF_ASSIGN_OR_RETURN(std::optional<JsonNode> scheme_node, node.Optional("prepend_scheme"));
  if (!scheme_node) return MetaspaceStep{std::move(mark), add_prefix ? Prepend::kAlways : Prepend::kNever, split};
  TF_ASSIGN_OR_RETURN(std::string scheme, scheme_node->String());
  static constexpr std::array<std::pair<absl::string_view, Prepend>, 3> kSchemes = {
      {{"never", Prepend::kNever}, {"first", Prepend::kFirst}, {"always", Prepend::kAlways}}};
  for (const auto& [name, prepend] : kSchemes) {
    if (scheme == name) return MetaspaceStep{std::move(mark), prepend, split};
  }
  return scheme_node->NotSupported(absl::StrCat("prepend_scheme ", Shown(scheme)));
}

using SplitLoader = absl::StatusOr<SplitStep> (*)(const JsonNode&);

SplitLoader FindSplitLoader(absl::string_view type) {  // null: it is no Split
  static constexpr std::pair<absl::string_view, SplitLoader> kSplits[] = {
      {"Split", LoadSplit},
      {"Digits", LoadDigits},
      {"Punctuation", LoadPunctuation},
      {"Whitespace", LoadWhitespace},
      {"WhitespaceSplit", LoadWhitespaceSplit},
      {"CharDelimiterSplit", LoadCharDelimiter},
  };
  for (const auto& [name, load] : kSplits) {
    if (type == name) return load;
  }
  return nullptr;
}

class PretokenizerLoader {
 public:
  absl::Status Add(const JsonNode& node, int depth) {
    TF_ASSIGN_OR_RETURN(JsonNode type_node, node.Child("type"));
    TF_ASSIGN_OR_RETURN(std::string type, type_node.String());
    if (type == "Sequence") return AddSequence(node, depth);
    if (result_.is_byte_level) return node.NotSupported("a pre-tokenizer behind ByteLevel");
    if (type == "ByteLevel") return AddByteLevel(node);
    if (type == "Metaspace") {
      TF_ASSIGN_OR_RETURN(MetaspaceStep step, LoadMetaspace(node));
      result_.steps.emplace_back(std::move(step));
      return absl::OkStatus();
    }
    if (const SplitLoader load = FindSplitLoader(type); load != nullptr) {
      TF_ASSIGN_OR_RETURN(SplitStep step, load(node));
      result_.steps.emplace_back(std::move(step));
      return absl::OkStatus();
    }
    return type_node.NotSupported(absl::StrCat("pre-tokenizer ", Shown(type)));
  }

  Pretokenizer Take() { return std::move(result_); }

 private:
  absl::Status AddSequence(const JsonNode& node, int depth) {
    if (depth == kMaxSequenceDepth) return node.NotSupported("Sequences nested this deep");
    TF_ASSIGN_OR_RETURN(JsonNode list, node.Child("pretokenizers"));
    TF_ASSIGN_OR_RETURN(std::vector<JsonNode> members, list.Elements());
    for (const JsonNode& member : members) TF_RETURN_IF_ERROR(Add(member, depth + 1));
    return absl::OkStatus();
  }

  absl::Status AddByteLevel(const JsonNode& node) {
    result_.is_byte_level = true;
    TF_ASSIGN_OR_RETURN(bool prefix, node.BoolOr("add_prefix_space", true));
    if (prefix) result_.steps.emplace_back(PrefixSpaceStep());
    TF_ASSIGN_OR_RETURN(bool use_regex, node.BoolOr("use_regex", true));
    if (!use_regex) return absl::OkStatus();
    TF_ASSIGN_OR_RETURN(SplitRegex regex, SplitRegex::Compile(kGpt2Regex));
    result_.steps.emplace_back(SplitStep{std::move(regex), SplitBehavior::kIsolated, /*invert=*/false});
    return absl::OkStatus();
  }

  Pretokenizer result_;
};

}  // namespace

absl::StatusOr<Pretokenizer> LoadPretokenizer(const JsonNode& root) {
  TF_ASSIGN_OR_RETURN(std::optional<JsonNode> node, root.Optional("pre_tokenizer"));
  if (!node) return Pretokenizer();
  PretokenizerLoader loader;
  TF_RETURN_IF_ERROR(loader.Add(*node, 0));
  return loader.Take();
}

}  // namespace tokenferry

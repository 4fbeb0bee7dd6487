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

class Loader {
 public:
  absl::Status Add(const JsonNode& node, int depth) {
    TF_ASSIGN_OR_RETURN(JsonNode type_node, node.Child("type"));
    TF_ASSIGN_OR_RETURN(std::string type, type_node.String());
    if (type == "Sequence") return AddSequence(node, depth);
    if (type != "Split" && type != "Digits" && type != "ByteLevel") {
      return type_node.NotSupported(absl::StrCat("pre-tokenizer ", Shown(type)));
    }
    if (has_byte_level_) return node.NotSupported("a pre-tokenizer behind ByteLevel");
    if (type == "ByteLevel") return AddByteLevel(node);
    TF_ASSIGN_OR_RETURN(SplitStep step, type == "Split" ? LoadSplit(node) : LoadDigits(node));
    result_.steps.push_back(std::move(step));
    return absl::OkStatus();
  }

  bool has_byte_level() const { return has_byte_level_; }
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
    has_byte_level_ = true;
    TF_ASSIGN_OR_RETURN(bool prefix, node.BoolOr("add_prefix_space", true));
    result_.prefix = prefix ? PrefixSpace::kAdd : PrefixSpace::kNo;
    TF_ASSIGN_OR_RETURN(bool use_regex, node.BoolOr("use_regex", true));
    if (!use_regex) return absl::OkStatus();
    TF_ASSIGN_OR_RETURN(SplitRegex regex, SplitRegex::Compile(kGpt2Regex));
    result_.byte_level_steps.push_back({std::move(regex), SplitBehavior::kIsolated, false});
    return absl::OkStatus();
  }

  Pretokenizer result_;
  bool has_byte_level_ = false;
};

}  // namespace

absl::StatusOr<Pretokenizer> LoadPretokenizer(const JsonNode& root) {
  TF_ASSIGN_OR_RETURN(std::optional<JsonNode> node, root.Optional("pre_tokenizer"));
  if (!node) return root.NotSupported("no pre_tokenizer; only byte-level tokenizers are supported so far");
  Loader loader;
  TF_RETURN_IF_ERROR(loader.Add(*node, 0));
  if (!loader.has_byte_level()) {
    return node->NotSupported("does not end with ByteLevel; only byte-level tokenizers are supported so far");
  }
  return loader.Take();
}

}  // namespace tokenferry

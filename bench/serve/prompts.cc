#include "bench/serve/prompts.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/io/json.h"

namespace tokenferry {
namespace {

constexpr const char* kWords[] = {
    "the",  "of",   "and",  "to",  "in",  "that",  "was",  "his",  "he",  "it",    "with",  "is",    "for",
    "as",   "had",  "you",  "not", "be",  "her",   "on",   "at",   "by",  "which", "have",  "or",    "from",
    "this", "him",  "but",  "all", "she", "they",  "were", "my",   "are", "me",    "one",   "their", "so",
    "an",   "said", "them", "we",  "who", "would", "been", "will", "no",  "when",  "there", "if",    "more",
    "out",  "up",   "into", "do",  "any", "your",  "what", "has",  "man", "could", "other", "than"};

// ShareGPT's files have 700 MB.
constexpr JsonLimits kDatasetLimits = {.max_depth = 32, .max_values = 400'000'000, .max_bytes = int64_t{4} << 30};

class PromptMaker {
 public:
  PromptMaker(const PromptOptions& options, const std::optional<Tokenizer>& tokenizer)
      : options_(options), tokenizer_(tokenizer), random_(options.seed) {}

  std::vector<BenchPrompt> Random() {
    std::vector<BenchPrompt> prompts;
    for (int i = 0; i < options_.num_prompts; ++i) {
      const int64_t input = Spread(options_.input_len), output = Spread(options_.output_len);
      prompts.push_back({Words(input), input, output});
    }
    return prompts;
  }

  std::vector<BenchPrompt> SharedPrefix() {
    std::vector<std::string> prefixes;
    for (int i = 0; i < options_.num_prefixes; ++i) prefixes.push_back(Words(options_.prefix_len));
    std::vector<BenchPrompt> prompts;
    for (int i = 0; i < options_.num_prompts; ++i) {
      prompts.push_back({absl::StrCat(prefixes[i % prefixes.size()], " ", Words(options_.input_len)),
                         options_.prefix_len + options_.input_len, options_.output_len});
    }
    return prompts;
  }

  absl::StatusOr<std::vector<BenchPrompt>> ShareGpt() {
    TF_ASSIGN_OR_RETURN(const JsonDocument file, JsonDocument::ReadFile(options_.dataset_file, kDatasetLimits));
    TF_ASSIGN_OR_RETURN(std::vector<JsonNode> conversations, file.root().Elements());
    Shuffle(conversations);
    std::vector<BenchPrompt> usable;
    for (const JsonNode& conversation : conversations) {
      TF_ASSIGN_OR_RETURN(std::optional<BenchPrompt> prompt, FirstTurns(conversation));
      if (prompt) usable.push_back(*std::move(prompt));
      if (std::ssize(usable) == options_.num_prompts) break;
    }
    if (usable.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat(options_.dataset_file, ": none of its ", conversations.size(),
                       " conversations has a prompt and an answer of 4 to 2,048 tokens together"));
    }
    std::vector<BenchPrompt> prompts;
    for (int i = 0; i < options_.num_prompts; ++i) prompts.push_back(usable[i % usable.size()]);
    return prompts;
  }

 private:
  // Uniform in [0, bound).
  uint64_t Below(uint64_t bound) { return random_() % bound; }

  int64_t Spread(int64_t length) {
    const double low = std::floor(static_cast<double>(length) * (1 - options_.range_ratio)),
                 high = std::ceil(static_cast<double>(length) * (1 + options_.range_ratio));
    return std::max<int64_t>(
        1, static_cast<int64_t>(low) + static_cast<int64_t>(Below(static_cast<uint64_t>(high - low) + 1)));
  }

  std::string Words(int64_t count) {
    std::string text;
    for (int64_t i = 0; i < count; ++i) absl::StrAppend(&text, i > 0 ? " " : "", kWords[Below(std::size(kWords))]);
    if (!tokenizer_) return text;
    // A word is a token or more.
    std::vector<int32_t> ids = tokenizer_->Encode(text);
    ids.resize(std::min<size_t>(ids.size(), static_cast<size_t>(count)));
    return tokenizer_->Decode(ids);
  }

  int64_t Length(const std::string& text) const {
    if (tokenizer_) return std::ssize(tokenizer_->Encode(text, SpecialTokens::kText));
    const std::vector<absl::string_view> words = absl::StrSplit(text, absl::ByAnyChar(" \t\r\n"), absl::SkipEmpty());
    return std::ssize(words);
  }

  void Shuffle(std::vector<JsonNode>& nodes) {
    for (size_t i = nodes.size(); i > 1; --i) std::swap(nodes[i - 1], nodes[Below(i)]);
  }

  // None: it is not used.
  absl::StatusOr<std::optional<BenchPrompt>> FirstTurns(const JsonNode& conversation) const {
    TF_ASSIGN_OR_RETURN(const std::optional<JsonNode> list, conversation.Optional("conversations"));
    if (!list) return std::nullopt;
    TF_ASSIGN_OR_RETURN(const std::vector<JsonNode> turns, list->Elements());
    if (turns.size() < 2) return std::nullopt;
    TF_ASSIGN_OR_RETURN(const std::string prompt, turns[0].StringOr("value", ""));
    TF_ASSIGN_OR_RETURN(const std::string answer, turns[1].StringOr("value", ""));
    const int64_t input = Length(prompt), output = options_.output_len > 0 ? options_.output_len : Length(answer);
    if (input < 4 || output < 4 || input > 1024 || input + output > 2048) return std::nullopt;
    return BenchPrompt{prompt, input, output};
  }

  const PromptOptions& options_;
  const std::optional<Tokenizer>& tokenizer_;
  std::mt19937_64 random_;
};

}  // namespace

absl::StatusOr<std::vector<BenchPrompt>> MakePrompts(const PromptOptions& options,
                                                     const std::optional<Tokenizer>& tokenizer) {
  PromptMaker maker(options, tokenizer);
  switch (options.source) {
    case PromptSource::kRandom:
      return maker.Random();
    case PromptSource::kSharedPrefix:
      return maker.SharedPrefix();
    case PromptSource::kShareGpt:
      return maker.ShareGpt();
  }
  return absl::InternalError("an unknown source of prompts");
}

}  // namespace tokenferry

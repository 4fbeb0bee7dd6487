// What a client of a server under load asks for.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/status.h"
#include "runtime/text/tokenizer.h"

namespace tokenferry {

enum class PromptSource : uint8_t {
  kRandom,        // words in random order
  kShareGpt,      // the first turns of conversations in a file in ShareGPT's format
  kSharedPrefix,  // random words behind one of a few common beginnings
};

// Lengths of prompts are in tokens if there is a tokenizer, else in words, which are about as many.
struct PromptOptions {
  PromptSource source = PromptSource::kRandom;
  int num_prompts = 100;
  int input_len = 128;   // kSharedPrefix: of what follows the beginning
  int output_len = 128;  // tokens to generate; kShareGpt, 0: as many as the conversation's answer has
  // kRandom: lengths are uniform between (1 - range_ratio) and (1 + range_ratio) times the two above.
  double range_ratio = 0;
  int prefix_len = 512;  // kSharedPrefix
  int num_prefixes = 4;
  std::string dataset_file;  // kShareGpt
  uint64_t seed = 0;
};

struct BenchPrompt {
  std::string text;
  int64_t num_units = 0;   // tokens or words, see PromptOptions
  int64_t max_tokens = 0;  // to generate
};

// The same prompts for the same options and tokenizer. Of ShareGPT's conversations are left out, as in vLLM's
// benchmark, those with fewer than 4 tokens on either side, more than 1,024 in the prompt, or more than 2,048 together;
// when fewer than num_prompts are left they are used again in turn. InvalidArgument for a file that has none.
absl::StatusOr<std::vector<BenchPrompt>> MakePrompts(const PromptOptions& options,
                                                     const std::optional<Tokenizer>& tokenizer);

}  // namespace tokenferry

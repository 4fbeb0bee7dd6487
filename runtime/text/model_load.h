// tokenizer.json's model. Private to the tokenizer's .cc files.
#pragma once

#include <cstdint>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "core/status.h"
#include "runtime/text/tokenizer_data.h"
#include "runtime/text/tokenizer_json.h"

namespace tokenferry {

using VocabIds = absl::flat_hash_map<std::string, int32_t>;  // by token as written in the file

// BPE and Unigram, into data.model; enters their tokens. `data` has its pre-tokenizer and decoder. Refuses by name what
// changes the result and is not known (dropout, continuing_subword_prefix, end_of_word_suffix).
absl::StatusOr<VocabIds> LoadModel(const JsonNode& root, Tokenizer::Data& data);

// Enters data.prefix_ids and suffix_ids from post_processor; the first of a prefix is bos_id. Refuses by name what is
// not TemplateProcessing, ByteLevel, or a Sequence of those.
absl::Status LoadPostProcessor(const JsonNode& root, Tokenizer::Data& data);

}  // namespace tokenferry

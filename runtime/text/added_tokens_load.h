// tokenizer.json's added_tokens and tokenizer_config.json's added_tokens_decoder. Private to the tokenizer's .cc files.
#pragma once

#include <cstdint>
#include <map>
#include <utility>

#include "core/status.h"
#include "runtime/text/model_load.h"
#include "runtime/text/tokenizer_added.h"
#include "runtime/text/tokenizer_data.h"
#include "runtime/text/tokenizer_json.h"

namespace tokenferry {

using AddedTokens = std::map<int32_t, std::pair<AddedToken, JsonNode>>;  // by id; with the value, for errors

absl::Status LoadAddedTokens(const JsonNode& root, AddedTokens& added);
absl::Status LoadAddedTokensDecoder(const JsonNode& config, AddedTokens& added);  // those of the same id are replaced

// Enters the added tokens into the vocabulary and the matchers. `data` has its normalizer and decoder.
absl::Status InstallAddedTokens(const AddedTokens& added, VocabIds& ids, Tokenizer::Data& data);

}  // namespace tokenferry

// Vocabularies of tiktoken (Kimi-K2): a file of lines "BASE64 RANK". Private to the tokenizer's .cc files.
#pragma once

#include <string>

#include "core/status.h"
#include "runtime/text/added_tokens_load.h"
#include "runtime/text/model_load.h"
#include "runtime/text/tokenizer_data.h"

namespace tokenferry {

// Into data.model, with the expression that cuts Kimi's text. The result maps the texts of tokens that are UTF-8 to
// ids. InvalidArgument, with file and line, for what is no such file.
absl::StatusOr<VocabIds> LoadTiktoken(const std::string& path, Tokenizer::Data& data);

// Kimi's reserved tokens: the 256 ids behind the vocabulary are special, <|reserved_token_ID|> where `added` does not
// name them. `config`: where errors are placed.
void AddReservedTokens(const Tokenizer::Data& data, const JsonNode& config, AddedTokens& added);

}  // namespace tokenferry

// Vocabularies of tiktoken (Kimi-K2): a file of lines "BASE64 RANK". Private to the tokenizer's .cc files.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "core/status.h"
#include "runtime/text/added_tokens_load.h"
#include "runtime/text/model_load.h"
#include "runtime/text/tokenizer_data.h"

namespace tokenferry {

// moonshotai/Kimi-K2's tokenization_kimi.py.
inline constexpr absl::string_view kKimiPattern =
    R"([\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+)"
    R"([\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
    R"(\s*[\r\n]+|\s+(?!\S)|\s+)";

// Into data.model, with the expression that cuts Kimi's text. The result maps the texts of tokens that are UTF-8 to
// ids. InvalidArgument, with file and line, for what is no such file.
absl::StatusOr<VocabIds> LoadTiktoken(const std::string& path, Tokenizer::Data& data);

// Kimi's reserved tokens: the 256 ids behind the vocabulary are special, <|reserved_token_ID|> where `added` does not
// name them. `config`: where errors are placed.
void AddReservedTokens(const Tokenizer::Data& data, const JsonNode& config, AddedTokens& added);

}  // namespace tokenferry

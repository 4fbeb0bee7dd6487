// tokenizer.json's pre_tokenizer. Private to the tokenizer's .cc files.
#pragma once

#include "core/status.h"
#include "runtime/text/pretokenizer.h"
#include "runtime/text/tokenizer_json.h"

namespace tokenferry {

// {"Regex": ..} or {"String": ..}.
absl::StatusOr<SplitRegex> LoadPattern(const JsonNode& node);

// None where the file has none. Refuses by name what is not a Split, Digits, Punctuation, Whitespace, WhitespaceSplit,
// CharDelimiterSplit, Metaspace or ByteLevel, and anything behind a ByteLevel.
absl::StatusOr<Pretokenizer> LoadPretokenizer(const JsonNode& root);

}  // namespace tokenferry

// tokenizer.json's pre_tokenizer. Private to the tokenizer's .cc files.
#pragma once

#include "core/status.h"
#include "runtime/text/pretokenizer.h"
#include "runtime/text/tokenizer_json.h"

namespace tokenferry {

constexpr int kMaxSequenceDepth = 8;  // of Sequence in Sequence, for normalizers and the like too

// Refuses by name what is not a Split, Digits or ByteLevel, and anything but one ByteLevel at the end.
absl::StatusOr<Pretokenizer> LoadPretokenizer(const JsonNode& root);

}  // namespace tokenferry

// What the readers of tokenizer.json share.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "core/io/json.h"

namespace tokenferry {

constexpr int kMaxSequenceDepth = 8;  // of Sequence in Sequence

absl::StatusOr<int32_t> TokenId(const JsonNode& node);  // an integer in [0, 2^24)

std::string Shown(absl::string_view text);  // quoted, escaped and cut for an error message

}  // namespace tokenferry

// How the texts of tokens become one text again (tokenizer.json's decoder).
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/status.h"
#include "runtime/text/tokenizer_json.h"

namespace tokenferry {

// How the vocabulary writes bytes.
enum class BytesOfTokens : uint8_t {
  kByteLevel,     // in ByteLevel's characters: bytes of neighbouring tokens join to characters
  kByteFallback,  // <0x00> to <0xFF>: a run of them that is no UTF-8 as a whole is one U+FFFD per byte
  kNone,          // not at all
};

struct TokenDecoder {
  BytesOfTokens bytes = BytesOfTokens::kByteLevel;
  std::vector<std::pair<std::string, std::string>> replacements;  // within each token, in order: old, new
  bool drops_first_mark = false;                                  // the first token loses its spaces (Metaspace)
  // Strip: the whole text loses up to so many of this character at its start.
  char32_t strip_character = 0;
  int64_t num_strip = 0;

  // A token's text in the vocabulary with `replacements` made; kByteLevel: its bytes.
  std::string TokenText(absl::string_view token) const;
};

// <0xE2>: its byte; -1: `token` is not of this kind.
int FallbackByte(absl::string_view token);

// Refuses by name what is not ByteLevel, Metaspace, or a Sequence of Replace, ByteFallback, Fuse and Strip in this
// order.
absl::StatusOr<TokenDecoder> LoadTokenDecoder(const JsonNode& root);

}  // namespace tokenferry

// The printable characters by which ByteLevel vocabularies write bytes (GPT-2's bytes_to_unicode): 0x21-0x7E, 0xA1-0xAC
// and 0xAE-0xFF are themselves, the other 68 in increasing order are U+0100 and following.
#pragma once

#include <array>
#include <optional>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace tokenferry {

class ByteAlphabet {
 public:
  static const ByteAlphabet& Get();

  char32_t character(uint8_t byte) const { return characters_[byte]; }
  // The bytes of a token; none where it is not written in these characters throughout.
  std::optional<std::string> Decode(absl::string_view token) const;

 private:
  ByteAlphabet();
  std::array<char32_t, 256> characters_;
  absl::flat_hash_map<char32_t, char> bytes_;
};

}  // namespace tokenferry

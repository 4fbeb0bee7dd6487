#include "runtime/text/byte_alphabet.h"

#include "runtime/text/unicode.h"

namespace tokenferry {

const ByteAlphabet& ByteAlphabet::Get() {
  static const ByteAlphabet* alphabet = new ByteAlphabet();
  return *alphabet;
}

ByteAlphabet::ByteAlphabet() {
  char32_t next = 0x100;
  for (char32_t b = 0; b < 256; ++b) {
    const bool is_printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    characters_[b] = is_printable ? b : next++;
    bytes_[characters_[b]] = static_cast<char>(b);
  }
}

std::optional<std::string> ByteAlphabet::Decode(absl::string_view token) const {
  std::string bytes;
  for (size_t pos = 0; pos < token.size();) {
    const auto it = bytes_.find(DecodeUtf8(token, pos));
    if (it == bytes_.end()) return std::nullopt;
    bytes += it->second;
  }
  return bytes;
}

}  // namespace tokenferry

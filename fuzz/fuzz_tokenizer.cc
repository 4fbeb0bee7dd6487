// Input: a tokenizer.json, a zero byte, a text. Without the zero byte the end of the input is the text as well.
#include <algorithm>
#include <cstdint>

#include "fuzz/tokenizer_properties.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  absl::string_view input(reinterpret_cast<const char*>(bytes), size);
  size_t zero = input.find('\0');
  absl::string_view json = input.substr(0, zero);
  absl::string_view text =
      zero != absl::string_view::npos ? input.substr(zero + 1) : input.substr(size - std::min<size_t>(size, 256));
  absl::StatusOr<tokenferry::Tokenizer> tokenizer = tokenferry::Tokenizer::FromJson(json, "fuzz");
  if (tokenizer.ok()) tokenferry::CheckTokenizerProperties(*tokenizer, text);
  return 0;
}

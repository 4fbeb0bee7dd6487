// The few Unicode questions a tokenizer asks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace tokenferry {

enum class Utf8End : uint8_t {
  kMore,  // a sequence cut off at the end may still be completed: leave it
  kLast,  // nothing follows: a cut-off sequence is invalid
};

// Appends `bytes` to `out`; every maximal invalid part (Unicode 3.9, "substitution of maximal subparts") becomes one
// U+FFFD. Returns how many bytes were consumed: all of them with kLast, at least size - 3 with kMore.
size_t AppendValidUtf8(absl::string_view bytes, Utf8End end, std::string& out);

bool IsValidUtf8(absl::string_view bytes);

// `text` of the functions below is valid UTF-8.
size_t CharacterEnd(absl::string_view text, size_t pos);   // of the one that begins at `pos`, before the end
size_t LastCharacter(absl::string_view text);              // where it begins; `text` is not empty
char32_t DecodeUtf8(absl::string_view text, size_t& pos);  // the code point at `pos`, which moves behind it
void AppendUtf8(char32_t c, std::string& out);

bool IsWhiteSpace(char32_t c);  // Unicode property White_Space
bool IsWord(char32_t c);        // UTS 18 word characters: Alphabetic, M, Nd, Pc, Join_Control

size_t LeadingWhiteSpace(absl::string_view text);   // bytes
size_t TrailingWhiteSpace(absl::string_view text);  // bytes
bool StartsWithWord(absl::string_view text);
bool EndsWithWord(absl::string_view text);

char32_t LowercaseOf(char32_t c);  // Unicode's simple mapping

enum class UnicodeForm : uint8_t { kC, kD, kKC, kKD };

// In a normalization form. O(n log n) for any text, long runs of combining marks included.
std::string NormalizeUnicode(absl::string_view text, UnicodeForm form);

}  // namespace tokenferry

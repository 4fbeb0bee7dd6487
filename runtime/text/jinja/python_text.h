// Python's view of text: characters are code points. All text is valid UTF-8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "runtime/text/unicode.h"

namespace tokenferry {

// str.isspace, isalpha, isdecimal, isdigit, isnumeric and isalnum, of one character. Digits that are no decimals are
// the superscripts; other numerals are those of category N.
bool IsPythonSpace(char32_t c);
bool IsPythonLetter(char32_t c);
bool IsPythonDecimal(char32_t c);
bool IsPythonDigit(char32_t c);
bool IsPythonNumeric(char32_t c);
bool IsPythonAlphanumeric(char32_t c);
size_t LeadingPythonSpace(absl::string_view text);   // bytes
size_t TrailingPythonSpace(absl::string_view text);  // bytes

absl::string_view FirstCharacter(absl::string_view text);  // `text` is not empty
int64_t NumCharacters(absl::string_view text);
size_t ByteOfCharacter(absl::string_view text, int64_t index);  // size() from the last character on

// Characters change one for one, but for ß, which becomes SS in capitals (SS, Ss): where Unicode has other special
// cases, the simple mapping is used.
enum class LetterCase : uint8_t { kLower, kUpper, kTitle };
void AppendCase(char32_t c, LetterCase letter_case, std::string& out);
bool IsCased(char32_t c);

std::string PythonRepr(absl::string_view text);  // in quotes, escaped
std::string PythonRepr(double value);            // the shortest digits that give it back: 21.5, 1e+16, 100000.0

}  // namespace tokenferry

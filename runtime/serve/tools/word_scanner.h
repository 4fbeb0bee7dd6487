// Whether a text that is still coming begins with a sequence of words.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"

namespace tokenferry {

inline size_t LeadingSpace(absl::string_view text) {
  const size_t at = text.find_first_not_of(" \t\r\n");
  return at == absl::string_view::npos ? text.size() : at;
}

inline size_t TrailingSpace(absl::string_view text) {
  const size_t at = text.find_last_not_of(" \t\r\n");
  return at == absl::string_view::npos ? text.size() : text.size() - at - 1;
}

// Bytes at the end of `text` that may be the beginning of `word`.
inline size_t BeginningAtEnd(absl::string_view text, absl::string_view word) {
  for (size_t n = std::min(word.size() - 1, text.size()); n > 0; --n) {
    if (absl::EndsWith(text, word.substr(0, n))) return n;
  }
  return 0;
}

// Goes from left to right and stops where the text is another one (kOther) or ends too early (kMore). What it says of a
// text holds for everything that begins with it, but for kMore.
class WordScanner {
 public:
  enum class Outcome : uint8_t { kFits, kMore, kOther };

  explicit WordScanner(absl::string_view text) : text_(text) {}

  WordScanner& Space() {
    if (fits()) pos_ += LeadingSpace(rest());
    return *this;
  }
  WordScanner& Word(absl::string_view word) {
    if (!fits()) return *this;
    if (absl::StartsWith(rest(), word)) {
      pos_ += word.size();
    } else {
      outcome_ = absl::StartsWith(word, rest()) ? Outcome::kMore : Outcome::kOther;
    }
    return *this;
  }
  // White space and each of the words.
  WordScanner& Words(const std::vector<absl::string_view>& words) {
    for (const absl::string_view word : words) Space().Word(word);
    return *this;
  }
  // The same, but any word may be missing.
  WordScanner& OptionalWords(const std::vector<absl::string_view>& words) {
    for (const absl::string_view word : words) {
      Space();
      if (fits() && (rest().empty() || rest()[0] == word[0])) Word(word);
    }
    return *this;
  }
  // 1 to `most` bytes, none of them in `ends`, before one that is.
  WordScanner& Until(absl::string_view ends, size_t most, absl::string_view* found) {
    if (!fits()) return *this;
    const size_t size = rest().find_first_of(ends);
    const size_t known = size == absl::string_view::npos ? rest().size() : size;
    if (known > most || size == 0) {
      outcome_ = Outcome::kOther;
    } else if (size == absl::string_view::npos) {
      outcome_ = Outcome::kMore;
    } else {
      *found = rest().substr(0, size);
      pos_ += size;
    }
    return *this;
  }
  // The next byte, which is not taken.
  WordScanner& Before(char next) {
    if (fits() && (rest().empty() || rest()[0] != next)) outcome_ = rest().empty() ? Outcome::kMore : Outcome::kOther;
    return *this;
  }

  Outcome outcome() const { return outcome_; }
  size_t pos() const { return pos_; }  // bytes that fit

 private:
  bool fits() const { return outcome_ == Outcome::kFits; }
  absl::string_view rest() const { return text_.substr(pos_); }

  absl::string_view text_;
  size_t pos_ = 0;
  Outcome outcome_ = Outcome::kFits;
};

}  // namespace tokenferry

// Added tokens: texts that become one token before any other processing (tokenizer.json's added_tokens).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"

namespace tokenferry {

struct AddedToken {
  int32_t id = -1;
  std::string content;
  bool single_word = false;  // only where no word character is beside it
  bool lstrip = false;       // swallows the white space before it
  bool rstrip = false;       // swallows the white space behind it
  bool normalized = false;   // searched in normalized text, in its own normalized form
  bool special = false;
};

struct AddedTokenSegment {
  int32_t id;              // -1: text between tokens
  absl::string_view text;  // of that text; empty for a token
};

// Whether the token is text that anybody may write, not a sign that only a template makes: it is not special, and it is
// one character or blank. Vocabularies add runs of spaces, and letters that they forgot.
bool IsOrdinaryText(const AddedToken& token);

// Whether the token may be taken out of bytes [begin, end) of the text; elsewhere they stay text.
using MayTake = absl::FunctionRef<bool(const AddedToken& token, size_t begin, size_t end)>;

// Finds the tokens by their text: leftmost, and of those the longest.
class AddedTokenMatcher {
 public:
  AddedTokenMatcher() = default;
  // `tokens`: contents not empty; of equal contents (normalization can make them so) the first counts.
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);

  // Appends the segments of `text` (valid UTF-8), which must outlive them. O(bytes of text * longest content) at worst.
  void Split(absl::string_view text, MayTake may_take, std::vector<AddedTokenSegment>& out) const;

 private:
  const AddedToken* LongestAt(absl::string_view text, size_t pos) const;
  std::vector<AddedToken> sorted_;  // by content
  std::vector<size_t> first_;       // [257]: tokens whose first byte is b are [first_[b], first_[b + 1])
};

}  // namespace tokenferry

#include "runtime/text/tokenizer_added.h"

#include <algorithm>
#include <utility>

#include "core/check.h"
#include "runtime/text/unicode.h"

namespace tokenferry {
namespace {

uint8_t ByteAt(const std::string& text, size_t pos) { return static_cast<uint8_t>(text[pos]); }

}  // namespace

bool IsOrdinaryText(const AddedToken& token) {
  constexpr char32_t kMark = 0x2581;  // SentencePiece's space
  bool is_blank = true;
  int num_characters = 0;
  for (size_t pos = 0; pos < token.content.size(); ++num_characters) {
    const char32_t c = DecodeUtf8(token.content, pos);
    is_blank = is_blank && (IsWhiteSpace(c) || c == kMark);
  }
  return !token.special && (is_blank || num_characters == 1);
}

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens) : sorted_(std::move(tokens)), first_(257) {
  std::stable_sort(sorted_.begin(), sorted_.end(), [](const auto& a, const auto& b) { return a.content < b.content; });
  auto same = [](const auto& a, const auto& b) { return a.content == b.content; };
  sorted_.erase(std::unique(sorted_.begin(), sorted_.end(), same), sorted_.end());
  for (const AddedToken& token : sorted_) {
    TF_CHECK(!token.content.empty());
    ++first_[ByteAt(token.content, 0) + 1];
  }
  for (size_t b = 0; b < 256; ++b) first_[b + 1] += first_[b];
}

const AddedToken* AddedTokenMatcher::LongestAt(absl::string_view text, size_t pos) const {
  uint8_t byte = static_cast<uint8_t>(text[pos]);
  auto begin = sorted_.begin() + static_cast<ptrdiff_t>(first_[byte]);
  auto end = sorted_.begin() + static_cast<ptrdiff_t>(first_[byte + 1]);
  const AddedToken* longest = nullptr;
  // [begin, end) agree with the text in their first `depth` bytes; a token of just those comes first.
  for (size_t depth = 1; begin != end; ++depth) {
    if (begin->content.size() == depth) longest = &*begin++;
    if (pos + depth >= text.size()) break;
    byte = static_cast<uint8_t>(text[pos + depth]);
    begin = std::partition_point(begin, end, [&](const auto& t) { return ByteAt(t.content, depth) < byte; });
    end = std::partition_point(begin, end, [&](const auto& t) { return ByteAt(t.content, depth) == byte; });
  }
  return longest;
}

void AddedTokenMatcher::Split(absl::string_view text, MayTake may_take, std::vector<AddedTokenSegment>& out) const {
  size_t done = 0;
  for (size_t pos = 0; !sorted_.empty() && pos < text.size();) {
    const AddedToken* token = LongestAt(text, pos);
    if (token == nullptr) {
      ++pos;
      continue;
    }
    size_t begin = pos;
    size_t end = pos + token->content.size();
    pos = end;
    if (!may_take(*token, begin, end)) continue;
    if (token->single_word && (EndsWithWord(text.substr(0, begin)) || StartsWithWord(text.substr(end)))) continue;
    // An rstrip token may have taken white space that a token of white space now claims: `done` can be behind `begin`.
    if (token->lstrip) begin = std::max(begin - TrailingWhiteSpace(text.substr(0, begin)), done);
    if (token->rstrip) end += LeadingWhiteSpace(text.substr(end));
    if (done < begin) out.push_back({-1, text.substr(done, begin - done)});
    out.push_back({token->id, {}});
    done = end;
  }
  if (done < text.size()) out.push_back({-1, text.substr(done)});
}

}  // namespace tokenferry

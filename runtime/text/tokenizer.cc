#include "runtime/text/tokenizer.h"

#include <algorithm>
#include <deque>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "runtime/text/tokenizer_data.h"
#include "runtime/text/unicode.h"

namespace tokenferry {
namespace {

// Encodes the text between added tokens. Words repeat: the ids of a piece seen before are copied.
class PieceEncoder {
 public:
  PieceEncoder(const Tokenizer::Data& data, SpecialTokens special, std::vector<int32_t>& out)
      : data_(data), banned_(special == SpecialTokens::kText ? &data.special_ids : nullptr), out_(out) {}

  void Encode(absl::string_view text) {
    std::deque<std::string> storage;
    for (absl::string_view piece : data_.pretokenizer.Split(text, storage)) EncodePiece(piece);
  }

 private:
  static constexpr size_t kMaxCachedBytes = 32;
  static constexpr size_t kMaxCachedPieces = 1 << 16;

  struct Span {
    size_t begin, size;  // in out_
  };

  void EncodePiece(absl::string_view piece) {
    auto it = seen_.find(piece);
    if (it != seen_.end()) {
      for (size_t i = 0; i < it->second.size; ++i) {
        int32_t id = out_[it->second.begin + i];
        out_.push_back(id);
      }
      return;
    }
    size_t begin = out_.size();
    AppendBpe(data_.bpe, banned_, piece, out_);
    if (piece.size() <= kMaxCachedBytes && seen_.size() < kMaxCachedPieces) {
      seen_.emplace(std::string(piece), Span{begin, out_.size() - begin});
    }
  }

  const Tokenizer::Data& data_;
  const absl::flat_hash_set<int32_t>* banned_;
  std::vector<int32_t>& out_;
  absl::flat_hash_map<std::string, Span> seen_;
};

}  // namespace

Tokenizer::Tokenizer(std::shared_ptr<const Data> data) : data_(std::move(data)) {}

std::vector<int32_t> Tokenizer::Encode(absl::string_view text, SpecialTokens special) const {
  std::string valid;
  AppendValidUtf8(text, Utf8End::kLast, valid);
  SpecialMatches matches = special == SpecialTokens::kText ? SpecialMatches::kText : SpecialMatches::kToken;

  std::vector<int32_t> ids;
  PieceEncoder pieces(*data_, special, ids);
  std::vector<AddedTokenSegment> outer, inner;
  data_->raw_tokens.Split(valid, matches, outer);
  for (const AddedTokenSegment& segment : outer) {
    if (segment.id >= 0) {
      ids.push_back(segment.id);
      continue;
    }
    std::string normal = data_->nfc ? Nfc(segment.text) : std::string(segment.text);
    inner.clear();
    data_->normalized_tokens.Split(normal, matches, inner);
    for (const AddedTokenSegment& part : inner) {
      if (part.id >= 0) {
        ids.push_back(part.id);
      } else {
        pieces.Encode(part.text);
      }
    }
  }
  return ids;
}

std::string Tokenizer::Decode(absl::Span<const int32_t> ids, ShowSpecial show) const {
  std::string bytes;
  for (int32_t id : ids) {
    if (show == ShowSpecial::kNo && IsSpecial(id)) continue;
    absl::StrAppend(&bytes, TokenBytes(id));
  }
  std::string text;
  AppendValidUtf8(bytes, Utf8End::kLast, text);
  return text;
}

int32_t Tokenizer::bos_id() const { return data_->bos_id; }
int32_t Tokenizer::eos_id() const { return data_->eos_id; }
bool Tokenizer::add_bos() const { return data_->add_bos; }
int32_t Tokenizer::max_id() const { return data_->max_id; }
bool Tokenizer::IsSpecial(int32_t id) const { return data_->special_ids.contains(id); }

absl::string_view Tokenizer::TokenBytes(int32_t id) const {
  auto it = data_->token_bytes.find(id);
  return it == data_->token_bytes.end() ? absl::string_view() : absl::string_view(it->second);
}

StreamingDecoder::StreamingDecoder(Tokenizer tokenizer, ShowSpecial show)
    : tokenizer_(std::move(tokenizer)), show_(show) {}

std::string StreamingDecoder::Push(int32_t id) {
  if (show_ == ShowSpecial::kNo && tokenizer_.IsSpecial(id)) return "";
  absl::StrAppend(&held_, tokenizer_.TokenBytes(id));
  std::string text;
  held_.erase(0, AppendValidUtf8(held_, Utf8End::kMore, text));
  return text;
}

std::string StreamingDecoder::Finish() {
  std::string text;
  AppendValidUtf8(held_, Utf8End::kLast, text);
  held_.clear();
  return text;
}

}  // namespace tokenferry

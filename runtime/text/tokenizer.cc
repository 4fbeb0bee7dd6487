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

// Normalized run by run, so that the tags stay: a mark at the start of a run is not composed with what comes before.
TaggedText Normalized(const TaggedText& text, size_t begin, size_t end) {
  TaggedText normal;
  for (const TaggedText::Run& run : text.runs()) {
    if (run.end <= begin || begin >= end) continue;
    const size_t run_end = std::min(run.end, end);
    normal.Append(Nfc(absl::string_view(text.text()).substr(begin, run_end - begin)), run.origin);
    begin = run_end;
  }
  return normal;
}

// `text` is valid UTF-8. Special tokens are taken out of what is TextOrigin::kModel; with kText no id of a special
// token comes out of the rest either.
std::vector<int32_t> EncodeTagged(const Tokenizer::Data& data, const TaggedText& text, SpecialTokens special) {
  std::vector<int32_t> ids;
  PieceEncoder pieces(data, special, ids);
  std::vector<AddedTokenSegment> outer, inner;
  data.raw_tokens.Split(
      text.text(), [&](size_t begin, size_t end) { return text.IsAll(TextOrigin::kModel, begin, end); }, outer);
  for (const AddedTokenSegment& segment : outer) {
    if (segment.id >= 0) {
      ids.push_back(segment.id);
      continue;
    }
    const auto begin = static_cast<size_t>(segment.text.data() - text.text().data());
    const TaggedText normal = data.nfc ? Normalized(text, begin, begin + segment.text.size())
                                       : text.Range(begin, begin + segment.text.size());
    inner.clear();
    data.normalized_tokens.Split(
        normal.text(), [&](size_t from, size_t to) { return normal.IsAll(TextOrigin::kModel, from, to); }, inner);
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

}  // namespace

Tokenizer::Tokenizer(std::shared_ptr<const Data> data) : data_(std::move(data)) {}

std::vector<int32_t> Tokenizer::Encode(absl::string_view text, SpecialTokens special) const {
  std::string valid;
  AppendValidUtf8(text, Utf8End::kLast, valid);
  return EncodeTagged(
      *data_, TaggedText(valid, special == SpecialTokens::kText ? TextOrigin::kMessage : TextOrigin::kModel), special);
}

std::vector<int32_t> Tokenizer::Encode(const TaggedText& text) const {
  TaggedText valid;
  size_t begin = 0;
  for (const TaggedText::Run& run : text.runs()) {
    std::string part;
    AppendValidUtf8(absl::string_view(text.text()).substr(begin, run.end - begin), Utf8End::kLast, part);
    valid.Append(part, run.origin);
    begin = run.end;
  }
  return EncodeTagged(*data_, valid, SpecialTokens::kText);
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

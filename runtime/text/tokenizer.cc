#include "runtime/text/tokenizer.h"

#include <algorithm>
#include <deque>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/strings/match.h"
#include "runtime/text/tokenizer_data.h"
#include "runtime/text/unicode.h"

namespace tokenferry {
namespace {

// Encodes the text between added tokens. Words repeat: the ids of a piece seen before are copied.
class PieceEncoder {
 public:
  // `banned`: ids that must not come out; null: none.
  PieceEncoder(const Tokenizer::Data& data, const absl::flat_hash_set<int32_t>* banned, std::vector<int32_t>& out)
      : data_(data), banned_(banned), out_(out) {}

  void Encode(absl::string_view text, PieceStart start) {
    std::deque<std::string> storage;
    for (absl::string_view piece : data_.pretokenizer.Split(text, start, storage)) EncodePiece(piece);
  }

 private:
  static constexpr size_t kMaxCachedBytes = 32;
  static constexpr size_t kMaxCachedPieces = 1 << 16;

  struct Span {
    size_t begin, size;  // in out_
  };

  void EncodePiece(absl::string_view piece) {
    const auto* bpe = std::get_if<BpeModel>(&data_.model);
    if (bpe == nullptr || bpe->word_mark.empty()) return EncodeWord(piece);
    const absl::string_view mark = bpe->word_mark;
    for (size_t begin = 0; begin < piece.size();) {
      size_t end = begin;  // of the marks that the word begins with
      while (absl::StartsWith(piece.substr(end), mark)) end += mark.size();
      end = std::min(piece.find(mark, end), piece.size());
      EncodeWord(piece.substr(begin, end - begin));
      begin = end;
    }
  }

  void EncodeWord(absl::string_view piece) {
    auto it = seen_.find(piece);
    if (it != seen_.end()) {
      for (size_t i = 0; i < it->second.size; ++i) {
        int32_t id = out_[it->second.begin + i];
        out_.push_back(id);
      }
      return;
    }
    size_t begin = out_.size();
    if (const auto* bpe = std::get_if<BpeModel>(&data_.model)) {
      AppendBpe(*bpe, banned_, piece, out_);
    } else if (const auto* unigram = std::get_if<UnigramModel>(&data_.model)) {
      unigram->Append(banned_, piece, out_);
    } else {
      std::get<SentencePieceModel>(data_.model).Append(banned_, piece, out_);
    }
    if (piece.size() <= kMaxCachedBytes && seen_.size() < kMaxCachedPieces) {
      seen_.emplace(std::string(piece), Span{begin, out_.size() - begin});
    }
  }

  const Tokenizer::Data& data_;
  const absl::flat_hash_set<int32_t>* banned_;
  std::vector<int32_t>& out_;
  absl::flat_hash_map<std::string, Span> seen_;
};

// Which added tokens are taken out of a text, by where it came from, and which ids the rest must not become.
struct TokenRules {
  absl::FunctionRef<bool(const AddedToken& token, TextOrigin origin)> may_take;
  const absl::flat_hash_set<int32_t>* banned;  // null: none
};

// `text` is valid UTF-8.
std::vector<int32_t> EncodeTagged(const Tokenizer::Data& data, const TaggedText& text, const TokenRules& rules) {
  std::vector<int32_t> ids;
  PieceEncoder pieces(data, rules.banned, ids);
  std::vector<AddedTokenSegment> outer, inner;
  const auto split = [&rules](const AddedTokenMatcher& matcher, const TaggedText& part,
                              std::vector<AddedTokenSegment>& out) {
    const auto may_take = [&](const AddedToken& token, size_t begin, size_t end) {
      const bool is_models = part.IsAll(TextOrigin::kModel, begin, end);
      return rules.may_take(token, is_models ? TextOrigin::kModel : TextOrigin::kMessage);
    };
    matcher.Split(part.text(), may_take, out);
  };
  split(data.raw_tokens, text, outer);
  for (const AddedTokenSegment& segment : outer) {
    if (segment.id >= 0) {
      ids.push_back(segment.id);
      continue;
    }
    const auto begin = static_cast<size_t>(segment.text.data() - text.text().data());
    const TaggedText normal = data.normalizer.Apply(text.Range(begin, begin + segment.text.size()));
    inner.clear();
    split(data.normalized_tokens, normal, inner);
    PieceStart start = begin == 0 ? PieceStart::kOfText : PieceStart::kLater;
    for (const AddedTokenSegment& part : inner) {
      if (part.id >= 0) {
        ids.push_back(part.id);
      } else {
        pieces.Encode(part.text, start);
      }
      start = PieceStart::kLater;
    }
  }
  return ids;
}

}  // namespace

Tokenizer::Tokenizer(std::shared_ptr<const Data> data) : data_(std::move(data)) {}

std::vector<int32_t> Tokenizer::Encode(absl::string_view text, SpecialTokens special) const {
  std::string valid;
  AppendValidUtf8(text, Utf8End::kLast, valid);
  const bool parses = special == SpecialTokens::kParse;
  const auto may_take = [parses](const AddedToken& token, TextOrigin) { return parses || !token.special; };
  return EncodeTagged(*data_, TaggedText(valid, TextOrigin::kModel),
                      {may_take, parses ? nullptr : &data_->special_ids});
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
  const auto may_take = [this](const AddedToken& token, TextOrigin origin) {
    return origin == TextOrigin::kModel || !data_->control_ids.contains(token.id);
  };
  return EncodeTagged(*data_, valid, {may_take, &data_->control_ids});
}

std::string Tokenizer::Decode(absl::Span<const int32_t> ids, ShowSpecial show) const {
  StreamingDecoder decoder(*this, show);
  std::string text;
  for (const int32_t id : ids) text += decoder.Push(id);
  return text + decoder.Finish();
}

int32_t Tokenizer::bos_id() const { return data_->bos_id; }
int32_t Tokenizer::eos_id() const { return data_->eos_id; }
bool Tokenizer::add_bos() const { return !data_->prefix_ids.empty(); }
absl::Span<const int32_t> Tokenizer::prefix_ids() const { return data_->prefix_ids; }
absl::Span<const int32_t> Tokenizer::suffix_ids() const { return data_->suffix_ids; }
int32_t Tokenizer::max_id() const { return data_->max_id; }
bool Tokenizer::IsSpecial(int32_t id) const { return data_->special_ids.contains(id); }

absl::string_view Tokenizer::TokenBytes(int32_t id) const {
  auto it = data_->token_bytes.find(id);
  return it == data_->token_bytes.end() ? absl::string_view() : absl::string_view(it->second);
}

bool Tokenizer::Data::AddToken(int32_t id, absl::string_view token) {
  const int byte = decoder.bytes == BytesOfTokens::kByteFallback ? FallbackByte(token) : -1;
  if (byte >= 0) byte_tokens.insert(id);
  return token_bytes.emplace(id, byte >= 0 ? std::string(1, static_cast<char>(byte)) : decoder.TokenText(token)).second;
}

StreamingDecoder::StreamingDecoder(Tokenizer tokenizer, ShowSpecial show)
    : tokenizer_(std::move(tokenizer)),
      show_(show),
      num_strip_left_(tokenizer_.data_->decoder.num_strip),
      drops_marks_(tokenizer_.data_->decoder.drops_first_mark) {}

std::string StreamingDecoder::Push(int32_t id) {
  if (show_ == ShowSpecial::kNo && tokenizer_.IsSpecial(id)) return "";
  const Tokenizer::Data& data = *tokenizer_.data_;
  if (data.decoder.bytes == BytesOfTokens::kByteLevel) {
    absl::StrAppend(&held_, tokenizer_.TokenBytes(id));
    std::string text;
    held_.erase(0, AppendValidUtf8(held_, Utf8End::kMore, text));
    return text;
  }
  if (!data.token_bytes.contains(id)) return "";
  if (data.byte_tokens.contains(id)) {
    absl::StrAppend(&held_, tokenizer_.TokenBytes(id));
    return "";
  }
  std::string text = TakeByteRun();
  std::string token(tokenizer_.TokenBytes(id));
  if (std::exchange(drops_marks_, false)) token.erase(std::remove(token.begin(), token.end(), ' '), token.end());
  absl::StrAppend(&text, token);
  return Stripped(std::move(text));
}

std::string StreamingDecoder::Finish() {
  if (tokenizer_.data_->decoder.bytes != BytesOfTokens::kByteLevel) return Stripped(TakeByteRun());
  std::string text;
  AppendValidUtf8(held_, Utf8End::kLast, text);
  held_.clear();
  return text;
}

// The bytes of a run that has ended: the text that they are, or one U+FFFD for each.
std::string StreamingDecoder::TakeByteRun() {
  const std::string bytes = std::exchange(held_, "");
  if (IsValidUtf8(bytes)) return bytes;
  std::string text;
  for (size_t i = 0; i < bytes.size(); ++i) text += "\uFFFD";
  return text;
}

// What of the decoded text's start is not to be shown is taken off as it comes.
std::string StreamingDecoder::Stripped(std::string text) {
  size_t begin = 0;
  while (num_strip_left_ > 0 && begin < text.size()) {
    size_t end = begin;
    if (DecodeUtf8(text, end) == tokenizer_.data_->decoder.strip_character) {
      begin = end;
      --num_strip_left_;
    } else {
      num_strip_left_ = 0;
    }
  }
  return text.substr(begin);
}

}  // namespace tokenferry

#include "fuzz/tokenizer_properties.h"

#include "core/check.h"
#include "runtime/text/unicode.h"

namespace tokenferry {
namespace {

void CheckStreaming(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, ShowSpecial show) {
  StreamingDecoder decoder(tokenizer, show);
  std::string all;
  for (int32_t id : ids) {
    std::string piece = decoder.Push(id);
    TF_CHECK(IsValidUtf8(piece));
    all += piece;
  }
  all += decoder.Finish();
  TF_CHECK(all == tokenizer.Decode(ids, show));
}

}  // namespace

void CheckTokenizerProperties(const Tokenizer& tokenizer, absl::string_view text) {
  for (SpecialTokens special : {SpecialTokens::kParse, SpecialTokens::kText}) {
    std::vector<int32_t> ids = tokenizer.Encode(text, special);
    for (int32_t id : ids) TF_CHECK(id >= 0 && id <= tokenizer.max_id());
    CheckStreaming(tokenizer, ids, ShowSpecial::kYes);
    CheckStreaming(tokenizer, ids, ShowSpecial::kNo);
  }
  std::vector<int32_t> bytes_as_ids(text.begin(), text.end());  // some unknown, some negative
  CheckStreaming(tokenizer, bytes_as_ids, ShowSpecial::kYes);
}

}  // namespace tokenferry

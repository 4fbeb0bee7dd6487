// Input: a text for a tokenizer of all 256 bytes and a few merges, with DeepSeek-V3's and DeepSeek-V2's expressions.
#include <cstdint>
#include <string>

#include "core/check.h"
#include "fuzz/tokenizer_properties.h"
#include "runtime/text/byte_alphabet.h"
#include "runtime/text/unicode.h"

namespace {

constexpr absl::string_view kHead = R"json({
  "added_tokens": [{"id": 300, "content": "<|x|>", "special": true}, {"id": 301, "content": "<t>"}],
  "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
    {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}"}, "behavior": "Isolated"},
    {"type": "Split", "pattern": {"Regex": "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+)json"
                                    R"json(|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+)json"
                                    R"json(| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
     "behavior": "Isolated"},
    {"type": "Split", "pattern": {"Regex": "\\s+$"}, "behavior": "Isolated"},
    {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]},
  "decoder": {"type": "ByteLevel"},
  "model": {"type": "BPE", "merges": ["a b", "b c", "ab c", "Ġ Ġ", "ĠĠ ĠĠ", "Ã ¤"],
    "vocab": {"ab": 256, "bc": 257, "abc": 258, "ĠĠ": 259, "ĠĠĠĠ": 260, "Ã¤": 261)json";

tokenferry::Tokenizer MakeTokenizer() {
  std::string json(kHead);
  for (size_t b = 0; b < 256; ++b) {
    json += ", \"";
    if (b == '"' || b == '\\') json += '\\';
    tokenferry::AppendUtf8(tokenferry::ByteAlphabet::Get().character(static_cast<uint8_t>(b)), json);
    json += absl::StrCat("\": ", b);
  }
  absl::StatusOr<tokenferry::Tokenizer> tokenizer = tokenferry::Tokenizer::FromJson(json + "}}}", "fuzz");
  TF_CHECK(tokenizer.ok());
  return *std::move(tokenizer);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  static const tokenferry::Tokenizer tokenizer = MakeTokenizer();
  absl::string_view text(reinterpret_cast<const char*>(bytes), size);
  tokenferry::CheckTokenizerProperties(tokenizer, text);
  std::string valid;
  tokenferry::AppendValidUtf8(text, tokenferry::Utf8End::kLast, valid);
  for (auto special : {tokenferry::SpecialTokens::kParse, tokenferry::SpecialTokens::kText}) {
    TF_CHECK(tokenizer.Decode(tokenizer.Encode(text, special)) == valid);
  }
  for (int32_t id : tokenizer.Encode(text, tokenferry::SpecialTokens::kText)) TF_CHECK(!tokenizer.IsSpecial(id));
  return 0;
}

// Behaviours whose expected results are worked out by hand.
#include "runtime/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runtime/text/byte_alphabet.h"
#include "runtime/text/pretokenizer_regex.h"
#include "runtime/text/unicode.h"

namespace tokenferry {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

// Ids 0..255 are the bytes; `more` continues the vocabulary, from id 256 on.
Tokenizer ByteTokenizer(absl::string_view steps, absl::string_view more, absl::string_view merges,
                        absl::string_view added, absl::string_view options = "") {
  std::string vocab;
  for (size_t b = 0; b < 256; ++b) {
    absl::StrAppend(&vocab, b == 0 ? "\"" : ", \"", b == '"' || b == '\\' ? "\\" : "");
    AppendUtf8(ByteAlphabet::Get().character(static_cast<uint8_t>(b)), vocab);
    absl::StrAppend(&vocab, "\": ", b);
  }
  std::string json = absl::StrCat(
      R"({"added_tokens": [)", added, R"(], "pre_tokenizer": {"type": "Sequence", "pretokenizers": [)", steps,
      R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]}, "decoder": {"type": "ByteLevel"},)",
      R"("model": {"type": "BPE", )", options, R"("vocab": {)", vocab, more, R"(}, "merges": [)", merges, "]}}");
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::FromJson(json, "test");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

std::string Regex(absl::string_view json_regex) {
  return absl::StrCat(R"({"type": "Split", "behavior": "Isolated", "pattern": {"Regex": ")", json_regex, "\"}},");
}

TEST(Unicode, ReplacesMaximalSubparts) {
  const std::string kR = "\xEF\xBF\xBD";
  const std::pair<std::string, std::string> kCases[] = {
      {"a\xFF", "a" + kR},                      // no such byte
      {"\xC0\x80", kR + kR},                    // overlong
      {"\xE0\x80\x80", kR + kR + kR},           // overlong
      {"\xED\xA0\x80", kR + kR + kR},           // surrogate
      {"\xF4\x90\x80\x80", kR + kR + kR + kR},  // beyond U+10FFFF
      {"\xE2\x82z", kR + "z"},                  // cut off: one
      {"\xF0\x9F\x8E", kR},                     // cut off by the end
      {"\xE2\x82\xE2\x82\xAC", kR + "€"},
  };
  for (const auto& [bytes, expected] : kCases) {
    std::string out;
    EXPECT_EQ(AppendValidUtf8(bytes, Utf8End::kLast, out), bytes.size());
    EXPECT_EQ(out, expected);
  }
  std::string out;
  EXPECT_EQ(AppendValidUtf8("a\xF0\x9F\x8E", Utf8End::kMore, out), 1);
  EXPECT_EQ(out, "a");
}

TEST(Unicode, NfcComposesAndReorders) {
  EXPECT_EQ(NormalizeUnicode("e\u0301", UnicodeForm::kC), "\u00e9");
  EXPECT_EQ(NormalizeUnicode("a\u0301\u0316", UnicodeForm::kC),
            "\u00e1\u0316");  // U+0316 (class 220) moves before U+0301 (230), which composes
  EXPECT_EQ(NormalizeUnicode("\u1112\u1161\u11ab", UnicodeForm::kC), "\ud55c");
  EXPECT_EQ(NormalizeUnicode("\u2126", UnicodeForm::kC), "\u03a9");
  std::string marks = "a";
  for (int i = 0; i < 100000; ++i) marks += "\u0301\u0316";  // an insertion sort would take 2.5 * 10^9 steps
  EXPECT_EQ(NormalizeUnicode(marks, UnicodeForm::kC).size(), marks.size() - 1);
}

TEST(Tokenizer, MergesByRankThenFromTheLeft) {
  Tokenizer tokenizer = ByteTokenizer("", R"(, "bc": 256, "ab": 257, "aa": 258, "aaa": 259)",
                                      R"(["b", "c"], ["a", "b"], ["a", "a"], ["aa", "a"])", "");
  EXPECT_THAT(tokenizer.Encode("abc"), ElementsAre('a', 256));  // bc has the lower rank
  EXPECT_THAT(tokenizer.Encode("ab"), ElementsAre(257));
  EXPECT_THAT(tokenizer.Encode("aaa"), ElementsAre(259));
  EXPECT_THAT(tokenizer.Encode("aaaa"), ElementsAre(258, 258));  // both pairs before aaa
  EXPECT_THAT(tokenizer.Encode("aaaaa"), ElementsAre(258, 259));
}

TEST(Tokenizer, SpecialTokensAsText) {
  // "ab" is special and in reach of merges and of ignore_merges; "c" is an added token that is not special.
  Tokenizer tokenizer = ByteTokenizer("", R"(, "ab": 256, "abd": 257)", R"(["a", "b"], ["ab", "d"])",
                                      R"({"id": 256, "content": "ab", "special": true},
                                         {"id": 258, "content": "cc", "special": false},
                                         {"id": 259, "content": "<e>", "special": true})",
                                      R"("ignore_merges": true, )");
  EXPECT_THAT(tokenizer.Encode("ab<e>cc"), ElementsAre(256, 259, 258));
  EXPECT_THAT(tokenizer.Encode("ab", SpecialTokens::kText), ElementsAre('a', 'b'));
  EXPECT_THAT(tokenizer.Encode("abx<e>cc", SpecialTokens::kText), ElementsAre('a', 'b', 'x', '<', 'e', '>', 258));
  EXPECT_EQ(tokenizer.Decode({256, 'x', 259, 258}), "abx<e>cc");
  EXPECT_EQ(tokenizer.Decode({256, 'x', 259, 258}, ShowSpecial::kNo), "xcc");
}

TEST(Tokenizer, AddedTokensInMessagesAreText) {
  // "ab" and "cc" are signs; two spaces and one letter are ordinary text, whoever writes them.
  Tokenizer tokenizer = ByteTokenizer("", R"(, "ab": 256, "abd": 257)", R"(["a", "b"], ["ab", "d"])",
                                      R"({"id": 256, "content": "ab", "special": false},
                                         {"id": 258, "content": "cc", "special": false},
                                         {"id": 259, "content": "  ", "special": false},
                                         {"id": 260, "content": "ж", "special": false})",
                                      R"("ignore_merges": true, )");
  EXPECT_THAT(tokenizer.Encode("abcc  ж"), ElementsAre(256, 258, 259, 260));
  EXPECT_THAT(tokenizer.Encode(TaggedText("abcc  ж", TextOrigin::kModel)), ElementsAre(256, 258, 259, 260));
  EXPECT_THAT(tokenizer.Encode(TaggedText("abxcc  ж", TextOrigin::kMessage)),
              ElementsAre('a', 'b', 'x', 'c', 'c', 259, 260));
  EXPECT_THAT(tokenizer.Encode(TaggedText("ab", TextOrigin::kMessage)), ElementsAre('a', 'b'));
}

TEST(Tokenizer, InvalidTextBecomesReplacementCharacters) {
  Tokenizer tokenizer = ByteTokenizer("", "", "", "");
  EXPECT_THAT(tokenizer.Encode("\xFF"), ElementsAre(0xEF, 0xBF, 0xBD));
  EXPECT_THAT(tokenizer.Encode(absl::string_view("\0", 1)), ElementsAre(0));
}

TEST(Tokenizer, DecodeIgnoresUnknownIds) {
  Tokenizer tokenizer = ByteTokenizer("", "", "", "");
  EXPECT_EQ(tokenizer.Decode({'a', -1, 1 << 24, INT32_MAX, INT32_MIN, 256, 'b'}), "ab");
  EXPECT_EQ(tokenizer.Decode({}), "");
}

TEST(StreamingDecoder, HoldsBackHalfCharacters) {
  Tokenizer tokenizer = ByteTokenizer("", "", "", R"({"id": 256, "content": "<e>", "special": true})");
  StreamingDecoder decoder(tokenizer, ShowSpecial::kNo);
  EXPECT_EQ(decoder.Push('a'), "a");
  EXPECT_EQ(decoder.Push(0xF0), "");
  EXPECT_EQ(decoder.Push(0x9F), "");
  EXPECT_EQ(decoder.Push(256), "");  // not shown, so it interrupts nothing
  EXPECT_EQ(decoder.Push(0x8E), "");
  EXPECT_EQ(decoder.Push(0x89), "\xF0\x9F\x8E\x89");
  EXPECT_EQ(decoder.Push(0xC3), "");
  EXPECT_EQ(decoder.Push('b'),
            "\xEF\xBF\xBD"
            "b");
  EXPECT_EQ(decoder.Push(0xE2), "");
  EXPECT_EQ(decoder.Finish(), "\xEF\xBF\xBD");
  EXPECT_EQ(decoder.Finish(), "");
}

TEST(StreamingDecoder, EqualsDecodeForRandomBytes) {
  Tokenizer tokenizer = ByteTokenizer("", "", "", "");
  constexpr int kSeed = 7;
  SCOPED_TRACE(kSeed);
  std::mt19937 rng(kSeed);
  const std::vector<int32_t> kBytes = {'a', 0x80, 0xBF, 0xC2, 0xE0, 0xA0, 0xED, 0x9F, 0xF0, 0x90, 0xF4, 0x8F, 0xFF};
  for (int round = 0; round < 3000; ++round) {
    std::vector<int32_t> ids(rng() % 12);
    for (int32_t& id : ids) id = kBytes[rng() % kBytes.size()];
    StreamingDecoder decoder(tokenizer, ShowSpecial::kYes);
    std::string all;
    for (int32_t id : ids) {
      std::string piece = decoder.Push(id);
      ASSERT_TRUE(IsValidUtf8(piece));
      all += piece;
    }
    ASSERT_EQ(all + decoder.Finish(), tokenizer.Decode(ids));
  }
}

TEST(SplitRegex, WhiteSpaceIsUnicodes) {
  absl::StatusOr<SplitRegex> space = SplitRegex::Compile("\\s");
  absl::StatusOr<SplitRegex> not_space = SplitRegex::Compile("[\\S]");
  ASSERT_TRUE(space.ok() && not_space.ok());
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    AppendUtf8(c, text);
    ASSERT_EQ(space->FindAll(text).size(), IsWhiteSpace(c) ? 1 : 0) << static_cast<uint32_t>(c);
    ASSERT_EQ(not_space->FindAll(text).size(), IsWhiteSpace(c) ? 0 : 1) << static_cast<uint32_t>(c);
  }
}

TEST(SplitRegex, CaseFolding) {
  absl::StatusOr<SplitRegex> regex = SplitRegex::Compile("(?i:'s|'LL)");
  ASSERT_TRUE(regex.ok());
  EXPECT_EQ(regex->FindAll("'s'S'\u017f'll'Ll's").size(), 6);
}

// A megabyte on which the expression needs 5 * 10^11 steps, or exponentially many: the bound ends it, nothing is lost.
TEST(Tokenizer, HostileTextEnds) {
  std::string spaces(1 << 20, ' '), letters(1 << 12, 'a');
  spaces.push_back('x');
  letters.push_back('!');
  for (absl::string_view regex : {"\\\\s+$", "(?:\\\\s+)+$", "(?:a|aa)+$", "(?:a*)*b", "\\\\s++$", "(?:a+a+)+b"}) {
    Tokenizer tokenizer = ByteTokenizer(Regex(regex), "", "", "");
    EXPECT_EQ(tokenizer.Decode(tokenizer.Encode(spaces)), spaces) << regex;
    EXPECT_EQ(tokenizer.Decode(tokenizer.Encode(letters)), letters) << regex;
  }
}

TEST(Tokenizer, MegabytesOfOnePieceAndOfMany) {
  Tokenizer tokenizer =
      ByteTokenizer(Regex("\\\\p{L}+|\\\\s+"), R"(, "aa": 256, "aaaa": 257)", R"(["a", "a"], ["aa", "aa"])", "");
  EXPECT_THAT(tokenizer.Encode(std::string(1 << 20, 'a')), Each(257));  // quadratic merging would not end
  std::string words;
  for (int i = 0; i < 40000; ++i) words += "aaaaa \n";
  std::vector<int32_t> ids = tokenizer.Encode(words);
  ASSERT_EQ(ids.size(), 40000 * 4);
  EXPECT_EQ(tokenizer.Decode(ids), words);
}

}  // namespace
}  // namespace tokenferry

// What Tokenizer::FromJson and Load take and refuse.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_replace.h"
#include "core/io/range_file.h"
#include "runtime/text/encode_prompt.h"
#include "runtime/text/tokenizer.h"

namespace tokenferry {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// a..c, a space (as Ġ), ab, abc and two special tokens.
constexpr absl::string_view kGood = R"json({
  "added_tokens": [{"id": 10, "content": "<s>", "special": true}, {"id": 11, "content": "</s>", "special": true}],
  "normalizer": null,
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
  "post_processor": {"type": "ByteLevel"},
  "decoder": {"type": "ByteLevel"},
  "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "Ġ": 3, "ab": 4, "abc": 5},
            "merges": [["a", "b"], ["ab", "c"]]}})json";

absl::StatusOr<Tokenizer> FromJson(absl::string_view json) { return Tokenizer::FromJson(json, "file.json"); }

// kGood with one part replaced.
absl::StatusOr<Tokenizer> With(absl::string_view from, absl::string_view to) {
  std::string json = absl::StrReplaceAll(kGood, {{from, to}});
  EXPECT_NE(json, kGood) << from;
  return FromJson(json);
}

void ExpectRefused(const absl::StatusOr<Tokenizer>& tokenizer, absl::string_view what) {
  ASSERT_FALSE(tokenizer.ok()) << what;
  EXPECT_THAT(tokenizer.status().message(), HasSubstr("file.json:"));
  EXPECT_THAT(tokenizer.status().message(), HasSubstr(std::string(what)));
}

TEST(TokenizerLoad, Good) {
  absl::StatusOr<Tokenizer> tokenizer = FromJson(kGood);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(tokenizer->Encode("abc ab<s>c"), ElementsAre(5, 3, 4, 10, 2));
  EXPECT_EQ(tokenizer->max_id(), 11);
  EXPECT_EQ(tokenizer->bos_id(), -1);
  EXPECT_EQ(tokenizer->eos_id(), -1);
  EXPECT_FALSE(tokenizer->add_bos());
  EXPECT_TRUE(tokenizer->IsSpecial(10));
  EXPECT_FALSE(tokenizer->IsSpecial(5));
  EXPECT_EQ(tokenizer->TokenBytes(3), " ");
  EXPECT_EQ(tokenizer->TokenBytes(-1), "");
  EXPECT_EQ(tokenizer->TokenBytes(99), "");
}

TEST(TokenizerLoad, NotJson) {
  for (absl::string_view json : {"{", "[1,", "nul", "\"\xff\"", "{}x"}) ExpectRefused(FromJson(json), "is not JSON");
  ExpectRefused(FromJson(""), "is empty");
  ExpectRefused(FromJson("{\"a\":1e999}"), "out of range");
  ExpectRefused(FromJson("{\"model\": 1, \"model\": {}}"), "has the key 'model' twice");
  ExpectRefused(FromJson("[]"), "must be an object");
  ExpectRefused(FromJson("{}"), "no decoder");
}

TEST(TokenizerLoad, DeepNestingIsNoStackOverflow) {
  std::string brackets(1 << 18, '[');
  ExpectRefused(FromJson(brackets), "nested deeper");
  ExpectRefused(FromJson(brackets + std::string(1 << 18, ']')), "nested deeper");
  std::string json = R"({"type":"ByteLevel"})";
  for (int i = 0; i < 12; ++i) json = absl::StrCat(R"({"type":"Sequence","pretokenizers":[)", json, "]}");
  ExpectRefused(FromJson(absl::StrCat("{\"pre_tokenizer\":", json, "}")), "nested this deep");
}

TEST(TokenizerLoad, RefusesByName) {
  constexpr absl::string_view kPre = R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": true})";
  ExpectRefused(With(kPre, R"({"type": "Bert"})"), "pre_tokenizer.type: pre-tokenizer 'Bert'");
  ExpectRefused(With(kPre, R"({"type": "Metaspace", "prepend_scheme": "last"})"), "prepend_scheme 'last'");
  ExpectRefused(With(kPre, R"({"type": "Metaspace", "replacement": ""})"), "an empty replacement");
  ExpectRefused(With(kPre, R"({"type": "CharDelimiterSplit", "delimiter": ""})"), "delimiter: must not be empty");
  ExpectRefused(With(kPre, R"({"type":"Sequence","pretokenizers":[{"type":"ByteLevel"},{"type":"Digits"}]})"),
                "pretokenizers[1]: a pre-tokenizer behind ByteLevel");
  ExpectRefused(With(R"("normalizer": null)", R"("normalizer": {"type": "Precompiled"})"), "normalizer 'Precompiled'");
  constexpr absl::string_view kDecoder = R"("decoder": {"type": "ByteLevel"})";
  const auto with_decoders = [&](absl::string_view list) {
    return With(kDecoder, absl::StrCat(R"("decoder": {"type": "Sequence", "decoders": [)", list, "]}"));
  };
  ExpectRefused(With(kDecoder, R"("decoder": {"type": "WordPiece"})"), "decoder 'WordPiece'");
  ExpectRefused(With(kDecoder, R"("decoder": null)"), "no decoder");
  ExpectRefused(with_decoders(R"({"type": "Fuse"}, {"type": "ByteFallback"})"),
                "decoders[1].type: decoder 'ByteFallback'");
  ExpectRefused(with_decoders(R"({"type": "ByteFallback"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0})"),
                "decoder 'Strip' at this place");
  ExpectRefused(with_decoders(R"({"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 1})"),
                "stripping the end");
  ExpectRefused(with_decoders(R"({"type": "Fuse"}, {"type": "ByteLevel"})"), "'ByteLevel' behind another one");
  ExpectRefused(with_decoders(R"({"type": "Replace", "pattern": {"Regex": "x"}, "content": ""})"), "lacks \"String\"");
  ExpectRefused(With(R"("post_processor": {"type": "ByteLevel"})", R"("post_processor": {"type": "Bert"})"), "'Bert'");
  ExpectRefused(With("\"BPE\"", "\"WordPiece\""), "model: type 'WordPiece'");
  ExpectRefused(With("\"BPE\"", "\"Unigram\""), "model.vocab: must be a list");
  ExpectRefused(With("\"BPE\"", "\"BPE\", \"byte_fallback\": true"), "byte_fallback behind a ByteLevel");
  ExpectRefused(With("\"BPE\"", "\"BPE\", \"dropout\": 0.5"), "dropout");
  ExpectRefused(With("\"BPE\"", "\"BPE\", \"end_of_word_suffix\": \"x\""), "end_of_word_suffix");
}

TEST(TokenizerLoad, RefusesRegexesItWouldMisread) {
  for (absl::string_view regex :
       {R"(\\w+)",  R"(\\bx)",    R"([^a&&b])", R"([a[b]])", R"([[:alpha:]])", R"((?<n>a))", R"((*UTF)a)",
        R"((?i)a)", R"((a)\\1)",  R"(a{,3})",   R"([]a])",   R"(\\h)",         R"(\\pL)",    R"([a)",
        R"(a{1}+)", R"([\\s-z])", R"(\\u12)",   R"((?R))",   R"((a)",          R"(*a)",      R"(\\p{Nonsense})"}) {
    ExpectRefused(With(R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": true})",
                       absl::StrCat(R"({"type":"Sequence","pretokenizers":[{"type":"Split","behavior":"Isolated",)",
                                    R"("pattern":{"Regex":")", regex, R"("}},{"type":"ByteLevel"}]})")),
                  "pre_tokenizer.pretokenizers[0].pattern.Regex: regular expression");
  }
}

TEST(TokenizerLoad, BadModel) {
  ExpectRefused(With("\"c\": 2", "\"c\": 1"), "model.vocab: id 1 of ");
  for (absl::string_view id : {"-1", "16777216", "1.0", "1e30", "99999999999999999999", "\"2\"", "null", "[]"}) {
    ExpectRefused(With("\"c\": 2", absl::StrCat("\"c\": ", id)), "model.vocab.c: must be a token id");
  }
  ExpectRefused(With(R"(["a", "b"])", R"(["a", "x"])"), "model.merges[0]: 'x' is not in the vocabulary");
  ExpectRefused(With(R"(["a", "b"])", R"(["b", "c"])"), "'bc' is not in the vocabulary");
  for (absl::string_view merge : {"1", "\"ab\"", "\"a b c\"", "[\"a\"]", "[\"a\", 1]", "[\"a\",\"b\",\"c\"]", "{}"}) {
    ExpectRefused(With(R"(["a", "b"])", merge), "model.merges[0]: must be");
  }
  ExpectRefused(With(R"("merges": [["a", "b"], ["ab", "c"]])", R"("merges": {})"), "model.merges: must be an array");
  ExpectRefused(With("\"BPE\"", "\"BPE\", \"unk_token\": \"?\""), "unk_token '?'");
  ExpectRefused(With("\"BPE\"", "\"BPE\", \"ignore_merges\": 1"), "model.ignore_merges: must be true or false");
}

TEST(TokenizerLoad, BadAddedTokens) {
  ExpectRefused(With("\"id\": 11", "\"id\": 10"), "added_tokens[1].id: 10 is also the id of another");
  ExpectRefused(With("\"id\": 11", "\"id\": 5"), "added_tokens[1]: id 5 of '</s>' is also that of another");
  ExpectRefused(With("\"</s>\"", "\"<s>\""), "added_tokens[1]: '<s>' has id 11 here and 10 elsewhere");
  ExpectRefused(With("\"</s>\"", "\"abc\""), "'abc' has id 11 here and 5 elsewhere");
  ExpectRefused(With("\"</s>\"", "\"\""), "added_tokens[1].content: must have 1 to 1024 bytes");
  ExpectRefused(With("\"</s>\"", absl::StrCat("\"", std::string(1025, 'x'), "\"")), "1024 bytes, has 1025");
  ExpectRefused(With("\"</s>\"", "{}"), "added_tokens[1].content: must be a string");
  ExpectRefused(With("\"id\": 11", "\"id\": 16777216"), "added_tokens[1].id: must be a token id");
  // In the vocabulary too, under the same id: usual.
  EXPECT_TRUE(With("{\"id\": 11, \"content\": \"</s>\"", "{\"id\": 5, \"content\": \"abc\"").ok());
}

TEST(TokenizerLoad, HighIdsCostNoMemory) {
  absl::StatusOr<Tokenizer> tokenizer = With("\"id\": 11", "\"id\": 16777215");
  ASSERT_TRUE(tokenizer.ok());
  EXPECT_EQ(tokenizer->max_id(), 16777215);
  EXPECT_THAT(tokenizer->Encode("</s>"), ElementsAre(16777215));
}

TEST(TokenizerLoad, TemplateNamesBos) {
  absl::StatusOr<Tokenizer> tokenizer = With(
      R"("post_processor": {"type": "ByteLevel"})",
      R"("post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel"}, {"type": "TemplateProcessing",
         "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
         "special_tokens": {"<s>": {"id": "<s>", "ids": [10], "tokens": ["<s>"]}}}]})");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(tokenizer->bos_id(), 10);
  EXPECT_TRUE(tokenizer->add_bos());
  EXPECT_THAT(tokenizer->Encode("a"), ElementsAre(0));  // Encode itself adds nothing
}

TEST(TokenizerLoad, PromptsStartWithTheWholePrefix) {
  const absl::StatusOr<Tokenizer> tokenizer =
      With(R"("post_processor": {"type": "ByteLevel"})",
           R"("post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
         {"SpecialToken": {"id": "c", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
         {"SpecialToken": {"id": "</s>", "type_id": 0}}], "special_tokens": {"<s>": {"id": "<s>", "ids": [10]},
         "c": {"id": "c", "ids": [2]}, "</s>": {"id": "</s>", "ids": [11]}}})");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(EncodePrompt(*tokenizer, "a"), ElementsAre(10, 2, 0));  // and no suffix: it is to be continued
  EXPECT_THAT(EncodePrompt(*tokenizer, "<s>ca"), ElementsAre(10, 2, 0));
  EXPECT_THAT(EncodePrompt(*tokenizer, "<s>a"), ElementsAre(10, 2, 10, 0));
  EXPECT_THAT(EncodePrompt(*tokenizer, ""), ElementsAre(10, 2));
}

class TokenizerDir : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = testing::TempDir() + "tokenizer_load_test." + std::to_string(getpid());
    std::filesystem::create_directories(dir_);
    Write("tokenizer.json", kGood);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  void Write(const std::string& name, absl::string_view text) { std::ofstream(dir_ + "/" + name) << text; }
  std::string dir_;
};

TEST_F(TokenizerDir, ConfigIsOptional) {
  EXPECT_TRUE(Tokenizer::Load(dir_).ok());
  absl::Status status = Tokenizer::Load(dir_ + "/absent").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(status.message(), HasSubstr("absent/tokenizer.json"));
}

TEST_F(TokenizerDir, NamesWhatThereIsInstead) {
  std::filesystem::remove(dir_ + "/tokenizer.json");
  Write("tekken.json", "x");
  const absl::Status tekken = Tokenizer::Load(dir_).status();
  EXPECT_EQ(tekken.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(tekken.message(), HasSubstr("has no tokenizer.json but tekken.json, a Tekken vocabulary"));
  Write("tokenizer.json", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n");
  EXPECT_THAT(Tokenizer::Load(dir_).status().message(), HasSubstr("tokenizer.json:1:1: is a Git LFS pointer"));
}

TEST_F(TokenizerDir, BadModelFiles) {
  std::filesystem::remove(dir_ + "/tokenizer.json");
  const auto message = [this] { return std::string(Tokenizer::Load(dir_).status().message()); };
  Write("tokenizer.model", "x");
  EXPECT_THAT(message(), HasSubstr("tokenizer.model: needs a tokenizer_config.json beside it"));
  Write("tokenizer_config.json", "{}");
  EXPECT_THAT(message(), AllOf(HasSubstr("tokenizer.model: "), Not(HasSubstr("needs a tokenizer_config.json"))));
  const std::pair<std::string, const char*> kBad[] = {
      {"x", "tiktoken.model:1: must be a token in base64 and its rank"},
      {"IQ== 0\nIg== zero\n", "tiktoken.model:2: must be a token"},
      {"IQ== 0\nIg== 0\n", "tiktoken.model:2: rank 0 is given twice"},
      {"IQ== 0\nIQ== 1\n", "tiktoken.model:2: the token is given twice"},
      {"IQ== 0\n" + std::string(1400, 'A') + " 1\n",
       "tiktoken.model:2: a token of 1050 bytes; at most 1024 are allowed"},
      {"IQ== 99999999\n", "rank 99999999 is out of range"},
      {"IQ== 0\n", "tiktoken.model: has no token for the byte 0"},
  };
  for (const auto& [text, what] : kBad) {
    Write("tiktoken.model", text);
    EXPECT_THAT(message(), HasSubstr(what));
  }
}

// What transformers' classes would do besides with a bare tokenizer.model is refused; what is the default is not.
TEST_F(TokenizerDir, SentencePieceOptions) {
  std::filesystem::remove(dir_ + "/tokenizer.json");
  const char* source = std::getenv("TF_SOURCE_DIR");
  const std::string golden = std::string(source == nullptr ? "." : source) + "/tests/data/tokenizers/sentencepiece_bpe";
  const absl::StatusOr<std::string> model = ReadTextFile(golden + "/tokenizer.model", 1 << 24);
  ASSERT_TRUE(model.ok()) << model.status();
  Write("tokenizer.model", *model);
  for (const absl::string_view option :
       {R"("legacy": false)", R"("add_prefix_space": false)", R"("sp_model_kwargs": {"enable_sampling": true})"}) {
    Write("tokenizer_config.json", absl::StrCat("{", option, "}"));
    const absl::Status status = Tokenizer::Load(dir_).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << option;
    EXPECT_THAT(status.message(), HasSubstr(std::string(option.substr(1, option.find(':') - 2)))) << option;
  }
  Write("tokenizer_config.json", R"({"legacy": true, "add_prefix_space": true, "sp_model_kwargs": {}})");
  const absl::StatusOr<Tokenizer> plain = Tokenizer::Load(dir_);
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->Decode(plain->Encode("a b")), "a b");
  // normalizer_spec {add_dummy_prefix: false}, which protobuf merges into the one that is there.
  Write("tokenizer.model", absl::StrCat(*model, "\x1a\x02\x18", std::string(1, '\0')));
  const absl::StatusOr<Tokenizer> bare = Tokenizer::Load(dir_);
  ASSERT_TRUE(bare.ok()) << bare.status();
  const std::vector<int32_t> ids = bare->Encode("a b");
  EXPECT_NE(ids, plain->Encode("a b"));
  EXPECT_EQ(bare->Decode(ids), "a b");
  EXPECT_EQ(bare->Decode(plain->Encode("a b")), " a b");  // the space is one that the tokens have
}

TEST_F(TokenizerDir, WhatCannotBeReadIsNoAbsence) {
  std::filesystem::remove(dir_ + "/tokenizer.json");
  std::filesystem::create_directories(dir_ + "/tiktoken.model");
  EXPECT_THAT(Tokenizer::Load(dir_).status().message(), HasSubstr("tiktoken.model: "));
}

TEST_F(TokenizerDir, Config) {
  Write("tokenizer_config.json", R"({"bos_token": {"content": "<s>"}, "eos_token": "</t>", "add_bos_token": true,
    "added_tokens_decoder": {"11": {"content": "</t>", "special": true}, "12": {"content": "bc", "special": false}}})");
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Load(dir_);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(tokenizer->bos_id(), 10);
  EXPECT_EQ(tokenizer->eos_id(), 11);
  EXPECT_TRUE(tokenizer->add_bos());
  EXPECT_THAT(tokenizer->Encode("abc</t>"), ElementsAre(0, 12, 11));
}

TEST_F(TokenizerDir, BadConfig) {
  const std::pair<const char*, const char*> kBad[] = {
      {R"({"bos_token": "<x>"})", "tokenizer_config.json:1:15: bos_token: '<x>' is not in the vocabulary"},
      {R"({"bos_token": 1})", "tokenizer_config.json:1:15: bos_token: must be a string"},
      {R"({"add_bos_token": true})", "tokenizer_config.json: add_bos_token is true but there is no bos_token"},
      {R"({"add_bos_token": "yes"})", "tokenizer_config.json:1:19: add_bos_token: must be true or false"},
      {R"({"added_tokens_decoder": {"x": {"content": "y"}}})", "the key must be a token id"},
      {R"({"added_tokens_decoder": {"16777216": {"content": "y"}}})", "the key must be a token id"},
      {R"({"added_tokens_decoder": {"5": {"content": "y"}}})", "id 5 of 'y' is also that of another token"},
      {"[]", "must be an object"},
      {"{", "tokenizer_config.json:1:2: is not JSON"},
  };
  for (const auto& [json, message] : kBad) {
    Write("tokenizer_config.json", json);
    absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Load(dir_);
    ASSERT_FALSE(tokenizer.ok()) << json;
    EXPECT_THAT(tokenizer.status().message(), HasSubstr(message));
  }
}

}  // namespace
}  // namespace tokenferry

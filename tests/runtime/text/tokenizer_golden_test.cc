// Compares with what the reference library (huggingface/tokenizers) gives: ferry-tiny-v3's tokenizer and the small ones
// of tests/data/tokenizers (made by tests/data/make_tokenizer_cases.py).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "runtime/text/tokenizer.h"
#include "runtime/text/unicode.h"

namespace tokenferry {
namespace {

using Ids = std::vector<int32_t>;
using nlohmann::json;

std::string SourceDir() {
  const char* dir = std::getenv("TF_SOURCE_DIR");
  return dir == nullptr ? "." : dir;
}

json ReadJson(const std::string& path) {
  std::ifstream in(path);
  EXPECT_TRUE(in.good()) << path;
  return json::parse(in);
}

Tokenizer MustLoad(const std::string& dir) {
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Load(dir);
  if (!tokenizer.ok()) {
    ADD_FAILURE() << tokenizer.status();
    std::abort();
  }
  return *std::move(tokenizer);
}

// Every piece is valid UTF-8, and together they are `decoded`.
void ExpectStreams(const Tokenizer& tokenizer, const Ids& ids, ShowSpecial show, const std::string& decoded) {
  StreamingDecoder decoder(tokenizer, show);
  std::string all;
  for (int32_t id : ids) {
    std::string piece = decoder.Push(id);
    ASSERT_TRUE(IsValidUtf8(piece));
    all += piece;
  }
  all += decoder.Finish();
  EXPECT_EQ(all, decoded);
}

TEST(TokenizerGolden, FerryTiny) {
  Tokenizer tokenizer = MustLoad(SourceDir() + "/models/ferry-tiny-v3");
  EXPECT_EQ(tokenizer.bos_id(), 0);
  EXPECT_EQ(tokenizer.eos_id(), 1);
  EXPECT_TRUE(tokenizer.add_bos());
  EXPECT_EQ(tokenizer.max_id(), 2303);
  json golden = ReadJson(SourceDir() + "/tests/data/ferry-tiny-v3/tokenizer.json");
  ASSERT_EQ(golden["cases"].size(), 230);
  ASSERT_EQ(golden["chat"].size(), 5);
  for (const json& c : golden["cases"]) {
    Ids ids = c["ids"];
    EXPECT_EQ(tokenizer.Encode(c["text"].get<std::string>()), ids) << c["text"];
    EXPECT_EQ(tokenizer.Decode(ids), c["decoded"].get<std::string>());
    ExpectStreams(tokenizer, ids, ShowSpecial::kYes, c["decoded"]);
  }
  for (const json& c : golden["chat"]) {
    EXPECT_EQ(tokenizer.Encode(c["text"].get<std::string>()), c["ids"].get<Ids>()) << c["text"];
    EXPECT_EQ(tokenizer.Decode(c["ids"].get<Ids>()), c["text"].get<std::string>());
  }
}

// Files {"tokenizer": .., "config": .. or absent, "cases": [{text, ids, ids_text, decoded, decoded_skip}],
// "decode": [{ids, decoded, decoded_skip}]}; ids_text: with special tokens taken as text.
TEST(TokenizerGolden, SmallTokenizers) {
  int num_files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(SourceDir() + "/tests/data/tokenizers")) {
    if (entry.path().extension() != ".json") continue;
    SCOPED_TRACE(entry.path().filename().string());
    ++num_files;
    json file = ReadJson(entry.path());
    absl::StatusOr<Tokenizer> tokenizer = Tokenizer::FromJson(file["tokenizer"].dump(), entry.path().string());
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    ASSERT_GT(file["cases"].size(), 20);
    for (const json& c : file["cases"]) {
      Ids ids = c["ids"];
      EXPECT_EQ(tokenizer->Encode(c["text"].get<std::string>()), ids) << c["text"];
      if (!c.contains("ids_text")) continue;
      EXPECT_EQ(tokenizer->Encode(c["text"].get<std::string>(), SpecialTokens::kText), c["ids_text"].get<Ids>())
          << c["text"];
    }
    for (const json& c : file["decode"]) {
      Ids ids = c["ids"];
      EXPECT_EQ(tokenizer->Decode(ids), c["decoded"].get<std::string>());
      EXPECT_EQ(tokenizer->Decode(ids, ShowSpecial::kNo), c["decoded_skip"].get<std::string>());
      ExpectStreams(*tokenizer, ids, ShowSpecial::kYes, c["decoded"]);
      ExpectStreams(*tokenizer, ids, ShowSpecial::kNo, c["decoded_skip"]);
    }
  }
  EXPECT_GE(num_files, 35);
}

// Folders with a model's files and cases.json: {"encode": [{text, ids, ids_special, decoded, decoded_skip}], "decode":
// [{ids, text, text_skip}]} by huggingface/tokenizers, where ids_special has the post-processor's tokens.
TEST(TokenizerGolden, Folders) {
  for (const std::string kind : {"qwen", "llama3", "llama4", "mixtral", "mixtral_legacy"}) {
    SCOPED_TRACE(kind);
    const std::string dir = SourceDir() + "/tests/data/tokenizers/" + kind;
    const Tokenizer tokenizer = MustLoad(dir);
    const json cases = ReadJson(dir + "/cases.json");
    ASSERT_GT(cases["encode"].size(), 200);
    for (const json& c : cases["encode"]) {
      const Ids ids = tokenizer.Encode(c["text"].get<std::string>());
      EXPECT_EQ(ids, c["ids"].get<Ids>()) << c["text"];
      Ids with_special(tokenizer.prefix_ids().begin(), tokenizer.prefix_ids().end());
      with_special.insert(with_special.end(), ids.begin(), ids.end());
      with_special.insert(with_special.end(), tokenizer.suffix_ids().begin(), tokenizer.suffix_ids().end());
      EXPECT_EQ(with_special, c["ids_special"].get<Ids>()) << c["text"];
      EXPECT_EQ(tokenizer.Decode(ids), c["decoded"].get<std::string>()) << c["text"];
      EXPECT_EQ(tokenizer.Decode(with_special, ShowSpecial::kNo), c["decoded_skip"].get<std::string>()) << c["text"];
      ExpectStreams(tokenizer, ids, ShowSpecial::kYes, c["decoded"]);
    }
    ASSERT_GT(cases["decode"].size(), 40);
    for (const json& c : cases["decode"]) {
      const Ids ids = c["ids"];
      EXPECT_EQ(tokenizer.Decode(ids), c["text"].get<std::string>());
      EXPECT_EQ(tokenizer.Decode(ids, ShowSpecial::kNo), c["text_skip"].get<std::string>());
      ExpectStreams(tokenizer, ids, ShowSpecial::kYes, c["text"]);
      ExpectStreams(tokenizer, ids, ShowSpecial::kNo, c["text_skip"]);
    }
  }
}

// Vocabularies in files of other kinds, with what their own libraries make of texts: {"cases": [{text, ids, ids_text or
// not}]}.
TEST(TokenizerGolden, OtherFiles) {
  for (const std::string kind : {"tiktoken", "sentencepiece_bpe", "sentencepiece_unigram"}) {
    SCOPED_TRACE(kind);
    const std::string dir = SourceDir() + "/tests/data/tokenizers/" + kind;
    const Tokenizer tokenizer = MustLoad(dir);
    const json cases = ReadJson(dir + "/cases.json")["cases"];
    ASSERT_GT(cases.size(), 40);
    for (const json& c : cases) {
      const std::string text = c["text"];
      EXPECT_EQ(tokenizer.Encode(text), c["ids"].get<Ids>()) << c["text"];
      if (!c.contains("ids_text")) continue;
      EXPECT_EQ(tokenizer.Encode(text, SpecialTokens::kText), c["ids_text"].get<Ids>()) << c["text"];
      EXPECT_EQ(tokenizer.Decode(c["ids"].get<Ids>()), text);
    }
    EXPECT_EQ(tokenizer.Decode(tokenizer.Encode("Hello world")), "Hello world");
    EXPECT_GE(tokenizer.bos_id(), 0);
    EXPECT_GE(tokenizer.eos_id(), 0);
    EXPECT_EQ(tokenizer.add_bos(), kind != "tiktoken");
  }
}

}  // namespace
}  // namespace tokenferry

// Tokenizers and chat templates out of GGUF metadata.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "runtime/text/chat/chat_template.h"
#include "runtime/text/jinja/value_json.h"
#include "runtime/text/tokenizer.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/status_matchers.h"

namespace tokenferry::testing {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

std::string DataDir() { return std::string(std::getenv("TF_SOURCE_DIR")) + "/tests/data/"; }

// The tokenizer of a folder of tests/data/tokenizers as llama.cpp's converter writes it.
GgufWriter ByteLevel(const std::string& folder, const std::string& pre) {
  const json file = json::parse(ReadFile(DataDir() + "tokenizers/" + folder + "/tokenizer.json"));
  const json config = json::parse(ReadFile(DataDir() + "tokenizers/" + folder + "/tokenizer_config.json"));
  std::vector<std::string> tokens, merges;
  std::vector<int32_t> types;
  const auto add = [&](int64_t id, const std::string& text, int32_t type) {
    tokens.resize(std::max<size_t>(tokens.size(), id + 1));
    types.resize(tokens.size(), 5);
    tokens[id] = text;
    types[id] = type;
  };
  for (const auto& [text, id] : file["model"]["vocab"].items()) add(id, text, 1);
  for (const json& added : file["added_tokens"]) add(added["id"], added["content"], added["special"] ? 3 : 4);
  for (const json& merge : file["model"]["merges"]) {
    merges.push_back(merge.is_string() ? merge.get<std::string>()
                                       : merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  }
  GgufWriter out;
  out.Key("tokenizer.ggml.model", "gpt2").Key("tokenizer.ggml.pre", pre.c_str()).Key("tokenizer.ggml.tokens", tokens);
  out.Key("tokenizer.ggml.token_type", types).Key("tokenizer.ggml.merges", merges);
  for (const auto& [key, name] : {std::pair<const char*, const char*>{"bos_token", "tokenizer.ggml.bos_token_id"},
                                  {"eos_token", "tokenizer.ggml.eos_token_id"}}) {
    if (!config[key].is_string()) continue;
    const auto at = std::find(tokens.begin(), tokens.end(), config[key].get<std::string>());
    out.Key(name, static_cast<uint32_t>(at - tokens.begin()));
  }
  return out;
}

class GgufTokenizer : public ::testing::Test {
 protected:
  absl::StatusOr<Tokenizer> Load(const GgufWriter& out) {
    WriteFile(path_, out.Bytes());
    return Tokenizer::Load(path_);
  }
  TempDir dir_;
  const std::string path_ = dir_.path() + "/m.gguf";
};

// By huggingface/tokenizers from the tokenizer.json.
TEST_F(GgufTokenizer, NamedPreTokenizersCutAsThePublishedOnes) {
  for (const auto& [folder, pre] : {std::pair<std::string, std::string>{"qwen", "qwen2"},
                                    {"llama3", "llama-bpe"},
                                    {"llama4", "llama4"},
                                    {"llama4", "gpt-4o"}}) {
    SCOPED_TRACE(pre);
    const auto tokenizer = Load(ByteLevel(folder, pre));
    ASSERT_OK(tokenizer);
    const json cases = json::parse(ReadFile(DataDir() + "tokenizers/" + folder + "/cases.json"));
    ASSERT_GT(cases["encode"].size(), 200);
    for (const json& c : cases["encode"]) {
      const Ids ids = tokenizer->Encode(c["text"].get<std::string>());
      EXPECT_EQ(ids, c["ids"].get<Ids>()) << c["text"];
      EXPECT_EQ(tokenizer->Decode(ids), c["decoded"].get<std::string>()) << c["text"];
    }
    EXPECT_EQ(tokenizer->add_bos(), pre == "llama-bpe" || pre == "llama4");
  }
}

// By SentencePiece itself, from the model that the file was made of.
TEST(GgufSentencePiece, MergesByScore) {
  const std::string path = DataDir() + "gguf/sentencepiece.gguf";
  const auto tokenizer = Tokenizer::Load(path);
  ASSERT_OK(tokenizer);
  const json cases = json::parse(ReadFile(DataDir() + "gguf/sentencepiece.json"))["cases"];
  ASSERT_GT(cases.size(), 100);
  for (const json& c : cases) {
    const std::string text = c["text"];
    EXPECT_EQ(tokenizer->Encode(text), c["ids"].get<Ids>()) << c["text"];
    EXPECT_EQ(tokenizer->Decode(c["ids"].get<Ids>()), text);
  }
  EXPECT_TRUE(tokenizer->add_bos());
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  const auto chat = ChatTemplate::Load(path);
  ASSERT_OK(chat);
  ChatInput input;
  const auto messages = ParseJinjaJson(R"([{"role": "user", "content": "hi"}])", "messages");
  ASSERT_OK(messages);
  input.messages = *messages;
  const auto text = chat->Render(input);
  ASSERT_OK(text);
  EXPECT_EQ(text->text(), "<s>[user]hi");
  EXPECT_ERROR(ChatTemplate::Load(path, "rag"), absl::StatusCode::kNotFound, "has no chat template 'rag', but default");
}

TEST_F(GgufTokenizer, WhatIsNotKnownIsRefusedByName) {
  EXPECT_ERROR(Load(ByteLevel("qwen", "hunyuan")), kUnimplemented, path_,
               "pre-tokenizer 'hunyuan' is not known; known: ", "llama-bpe");
  GgufWriter out;
  EXPECT_ERROR(Load(out), kInvalid, path_, "tokenizer.ggml.model");
  EXPECT_ERROR(Load(out.Key("tokenizer.ggml.model", "t5")), kUnimplemented, "the tokenizer 't5' is not supported");
  GgufWriter no_pre;
  no_pre.Key("tokenizer.ggml.model", "gpt2").Key("tokenizer.ggml.tokens", std::vector<std::string>{"a"});
  EXPECT_ERROR(Load(no_pre), kInvalid, path_, "tokenizer.ggml.pre");
  GgufWriter scores;
  scores.Key("tokenizer.ggml.model", "llama").Key("tokenizer.ggml.tokens", std::vector<std::string>{"a", "b"});
  scores.Key("tokenizer.ggml.scores", std::vector<float>{0});
  EXPECT_ERROR(Load(scores), kInvalid, path_, "has 1 elements for 2 tokens");
  GgufWriter twice;
  twice.Key("tokenizer.ggml.model", "llama").Key("tokenizer.ggml.tokens", std::vector<std::string>{"a", "a"});
  twice.Key("tokenizer.ggml.scores", std::vector<float>{0, 0});
  EXPECT_ERROR(Load(twice), kInvalid, path_, "is there twice");
  const auto scored = [](const std::string& token, float score) {
    GgufWriter file;
    file.Key("tokenizer.ggml.model", "llama").Key("tokenizer.ggml.tokens", std::vector<std::string>{"a", token});
    return file.Key("tokenizer.ggml.scores", std::vector<float>{0, score});
  };
  EXPECT_EQ(Load(scored(std::string(1024, 'b'), -1).Key("tokenizer.ggml.add_bos_token", false)).status(),
            absl::OkStatus());
  EXPECT_ERROR(Load(scored(std::string(1025, 'b'), -1)), kInvalid, path_, "token 1 has 1025 bytes");
  EXPECT_ERROR(Load(scored("b", std::nanf(""))), kInvalid, path_, "['tokenizer.ggml.scores'][1]", "is no number");
  EXPECT_ERROR(Load(scored("b\xFF", 0)), kInvalid, path_, "['tokenizer.ggml.tokens'][1]", "is not UTF-8");
  EXPECT_ERROR(Load(scored("b", 0).Key("tokenizer.chat_template", "{{ '\xFF' }}")), kInvalid, path_,
               "tokenizer.chat_template", "is not UTF-8");
  EXPECT_ERROR(Load(ByteLevel("qwen", "qwen2").Key("tokenizer.ggml.padding_token_id", uint32_t{1 << 20})), kInvalid,
               path_, "tokenizer.ggml.padding_token_id");
}

}  // namespace
}  // namespace tokenferry::testing

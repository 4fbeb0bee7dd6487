// Tokenizers and chat templates out of GGUF metadata.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <tuple>

#include "absl/strings/escaping.h"
#include "core/check.h"
#include "runtime/text/chat/chat_template.h"
#include "runtime/text/jinja/value_json.h"
#include "runtime/text/tokenizer.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/status_matchers.h"

namespace tokenferry::testing {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;

std::string DataDir() { return std::string(std::getenv("TF_SOURCE_DIR")) + "/tests/data/"; }

json ReadTokenizer(const std::string& folder, const std::string& file = "tokenizer.json") {
  return json::parse(ReadFile(DataDir() + "tokenizers/" + folder + "/" + file));
}

// A tokenizer.json as llama.cpp's converter writes it.
GgufWriter ByteLevel(const json& file, const json& config, const std::string& pre) {
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
    if (!config.contains(key) || !config[key].is_string()) continue;
    const auto at = std::find(tokens.begin(), tokens.end(), config[key].get<std::string>());
    out.Key(name, static_cast<uint32_t>(at - tokens.begin()));
  }
  return out;
}

// That of a folder of tests/data/tokenizers.
GgufWriter ByteLevel(const std::string& folder, const std::string& pre) {
  return ByteLevel(ReadTokenizer(folder), ReadTokenizer(folder, "tokenizer_config.json"), pre);
}

// As byte-level vocabularies write a byte: printable ones of Latin-1 as they are, others from U+0100 on.
std::string ByteLevelText(const std::string& bytes) {
  const auto is_printable = [](int b) { return (b > 32 && b < 127) || (b > 160 && b != 173); };
  std::string text;
  for (const char c : bytes) {
    const int byte = static_cast<uint8_t>(c);
    int code = byte;
    if (!is_printable(byte)) {
      code = 256;
      for (int b = 0; b < byte; ++b) code += is_printable(b) ? 0 : 1;
    }
    if (code < 128) {
      text += static_cast<char>(code);
    } else {
      text += {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
    }
  }
  return text;
}

// A tokenizer.json's model of a tiktoken file, and the merge that makes each token: what is left of it when the tokens
// before it are merged.
json TiktokenModel(const std::string& path) {
  std::map<std::string, int64_t> ranks;
  std::istringstream lines(ReadFile(path));
  std::string base64, token;
  for (int64_t rank; lines >> base64 >> rank; ranks[token] = rank) TF_CHECK(absl::Base64Unescape(base64, &token));
  json vocab = json::object();
  std::map<int64_t, json> merges;
  for (const auto& [whole, rank] : ranks) {
    vocab[ByteLevelText(whole)] = rank;
    std::vector<std::string> parts;
    for (const char c : whole) parts.emplace_back(1, c);
    while (parts.size() > 2) {
      size_t best = 0;
      int64_t best_rank = rank;
      for (size_t i = 0; i + 1 < parts.size(); ++i) {
        const auto found = ranks.find(parts[i] + parts[i + 1]);
        if (found != ranks.end() && found->second < best_rank) std::tie(best, best_rank) = std::pair(i, found->second);
      }
      if (best_rank == rank) break;  // there is no merge that makes it; it is taken whole
      parts[best] += parts[best + 1];
      parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    }
    if (parts.size() == 2) merges[rank] = {ByteLevelText(parts[0]), ByteLevelText(parts[1])};
  }
  json list = json::array();
  for (const auto& [rank, merge] : merges) list.push_back(merge);
  return {{"vocab", vocab}, {"merges", list}};
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

// Other names stand for a published tokenizer.json that differs from one of the folders' in this.
TEST_F(GgufTokenizer, NamedPreTokenizersCutAsTheirTokenizerJson) {
  const auto no_whole_tokens = [](json& file) { file["model"]["ignore_merges"] = false; };
  const auto single_digits = [](json& file) {
    file["normalizer"] = nullptr;
    file["pre_tokenizer"] = {{"type", "Sequence"},
                             {"pretokenizers",
                              {{{"type", "Digits"}, {"individual_digits", true}},
                               {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}}}};
  };
  struct Named {
    std::string pre, folder;
    std::function<void(json&)> change;
  };
  for (const Named& named : {Named{"glm4", "llama3", no_whole_tokens},
                             {"chatglm-bpe", "llama3", no_whole_tokens},
                             {"minimax-m2", "llama4", no_whole_tokens},
                             {"refact", "qwen", single_digits}}) {
    SCOPED_TRACE(named.pre);
    json file = ReadTokenizer(named.folder);
    named.change(file);
    WriteFile(dir_.path() + "/tokenizer.json", file.dump());
    const auto published = Tokenizer::Load(dir_.path());
    const auto tokenizer = Load(ByteLevel(named.folder, named.pre));
    ASSERT_OK(published);
    ASSERT_OK(tokenizer);
    const json cases = ReadTokenizer(named.folder, "cases.json");
    for (const json& c : cases["encode"]) {
      const std::string text = c["text"];
      EXPECT_EQ(tokenizer->Encode(text), published->Encode(text)) << c["text"];
    }
  }
}

// By huggingface/tokenizers, from a tokenizer.json with DeepSeek-V2's steps, and by tiktoken with Kimi's.
TEST_F(GgufTokenizer, NamedPreTokenizersCutAsDeepSeekAndKimi) {
  const json deepseek = json::parse(ReadFile(DataDir() + "tokenizers/deepseek_v2_like.json"));
  const json kimi = {{"model", TiktokenModel(DataDir() + "tokenizers/tiktoken/tiktoken.model")},
                     {"added_tokens", json::array()}};
  for (const auto& [pre, file, cases] : {std::tuple{"deepseek-llm", deepseek["tokenizer"], deepseek["cases"]},
                                         {"kimi-k2", kimi, ReadTokenizer("tiktoken", "cases.json")["cases"]}}) {
    SCOPED_TRACE(pre);
    const auto tokenizer = Load(ByteLevel(file, json::object(), pre));
    ASSERT_OK(tokenizer);
    ASSERT_GT(cases.size(), 30);
    for (const json& c : cases) {
      EXPECT_EQ(tokenizer->Encode(c["text"].get<std::string>(), SpecialTokens::kText), c["ids_text"].get<Ids>())
          << c["text"];
    }
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

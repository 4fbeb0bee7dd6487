#include "runtime/text/gguf_tokenizer.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <tuple>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "runtime/text/tiktoken_load.h"
#include "runtime/text/tokenizer_json.h"
#include "runtime/text/unicode.h"

namespace tokenferry {
namespace {

using nlohmann::json;

constexpr size_t kMaxScoredBytes = 1024;

// Of tokenizer.ggml.token_type.
enum TokenType : int64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

constexpr absl::string_view kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr absl::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+)"
    R"(|\s+(?!\S)|\s+)";
constexpr absl::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+)"
    R"(|\s+(?!\S)|\s+)";
constexpr absl::string_view kO200k =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// DeepSeek-V3 cuts three times: numbers, Chinese and Japanese, and then the rest.
constexpr absl::string_view kNumbers = R"(\p{N}{1,3})", kHan = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+";
constexpr absl::string_view kDeepSeek3 =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
// DeepSeek-V2 cuts five times, and digits one by one. Its letters are those with case of an older Unicode.
constexpr absl::string_view kLineEnd = R"([\r\n])", kDigit = R"(\p{N})", kLineTail = R"(\s+$)";
constexpr absl::string_view kCasedWord =
    "\\s?["
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481"
    "\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b"
    "\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b"
    "\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb"
    "\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4"
    "\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
    "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943"
    "]+";
constexpr absl::string_view kMarks = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+";
constexpr absl::string_view kEastAsian = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+";

// What a name in tokenizer.ggml.pre stands for: the settings of the published tokenizer.json.
struct PreTokenizer {
  absl::string_view name;
  std::vector<absl::string_view> splits;
  bool is_nfc = false, ignore_merges = false;
};

const std::vector<PreTokenizer>& PreTokenizers() {
  static const std::vector<PreTokenizer> known = {
      {.name = "gpt-2", .splits = {kGpt2}},
      {.name = "olmo", .splits = {kGpt2}, .is_nfc = true},
      {.name = "llama-bpe", .splits = {kLlama3}, .ignore_merges = true},
      {.name = "llama3", .splits = {kLlama3}, .ignore_merges = true},
      {.name = "qwen2", .splits = {kQwen2}, .is_nfc = true},
      {.name = "deepseek-llm", .splits = {kLineEnd, kCasedWord, kMarks, kLineTail, kEastAsian, kDigit}},
      {.name = "deepseek-v3", .splits = {kNumbers, kHan, kDeepSeek3}},
      {.name = "gpt-4o", .splits = {kO200k}, .ignore_merges = true},
      {.name = "llama4", .splits = {kO200k}, .ignore_merges = true},
      {.name = "glm4", .splits = {kLlama3}},
      {.name = "chatglm-bpe", .splits = {kLlama3}},
      {.name = "minimax-m2", .splits = {kO200k}},
      {.name = "kimi-k2", .splits = {kKimiPattern}, .ignore_merges = true},  // tiktoken takes whole tokens first
      {.name = "refact", .splits = {kDigit, kGpt2}},                         // Granite's
  };
  return known;
}

// What follows takes texts of JSON files, which are UTF-8.
absl::Status CheckTexts(const JsonNode& metadata) {
  const auto check = [&](const json& value) {
    if (!value.is_string() || IsValidUtf8(value.get_ref<const std::string&>())) return absl::OkStatus();
    return metadata.At(value).Error("is not UTF-8");
  };
  for (const auto& [key, value] : metadata.value().items()) {
    if (!absl::StartsWith(key, "tokenizer.")) continue;
    if (!IsValidUtf8(key)) return metadata.Error("a key that begins with 'tokenizer.' is not UTF-8");
    TF_RETURN_IF_ERROR(check(value));
    if (!value.is_array()) continue;
    for (const json& element : value) TF_RETURN_IF_ERROR(check(element));
  }
  return absl::OkStatus();
}

// A list of the metadata, of as many elements as there are tokens.
absl::StatusOr<std::vector<JsonNode>> TokenList(const JsonNode& metadata, absl::string_view key, size_t num_tokens) {
  TF_ASSIGN_OR_RETURN(const JsonNode node, metadata.Child(key));
  TF_ASSIGN_OR_RETURN(std::vector<JsonNode> list, node.Elements());
  if (list.size() == num_tokens) return list;
  return node.Error(absl::StrCat("has ", list.size(), " elements for ", num_tokens, " tokens"));
}

struct Token {
  std::string text;
  int64_t type = kNormal;
};

absl::StatusOr<std::vector<Token>> ReadTokens(const JsonNode& metadata) {
  TF_ASSIGN_OR_RETURN(const JsonNode node, metadata.Child("tokenizer.ggml.tokens"));
  TF_ASSIGN_OR_RETURN(const std::vector<JsonNode> texts, node.Elements());
  std::vector<Token> tokens(texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    TF_ASSIGN_OR_RETURN(tokens[i].text, texts[i].String());
  }
  if (!metadata.value().contains("tokenizer.ggml.token_type")) return tokens;
  TF_ASSIGN_OR_RETURN(const auto types, TokenList(metadata, "tokenizer.ggml.token_type", tokens.size()));
  for (size_t i = 0; i < types.size(); ++i) {
    TF_ASSIGN_OR_RETURN(tokens[i].type, types[i].Int(0, kByte));
  }
  return tokens;
}

// tokenizer.json's "model.vocab" and "added_tokens". Tokens that were put in to fill the vocabulary can come out of a
// model as well as others.
absl::Status AddVocabulary(const JsonNode& metadata, const std::vector<Token>& tokens, bool keep_special_in_vocab,
                           json& tokenizer) {
  json vocab = json::object(), added = json::array();
  for (size_t id = 0; id < tokens.size(); ++id) {
    const Token& token = tokens[id];
    const bool is_special = token.type == kControl || token.type == kUnknown;
    const bool is_added = is_special || token.type == kUserDefined;
    if (is_added && !token.text.empty()) {
      added.push_back({{"id", id}, {"content", token.text}, {"special", is_special}, {"normalized", false}});
    }
    if (is_added && !keep_special_in_vocab) continue;
    if (vocab.emplace(token.text, id).second) continue;
    return metadata.Error(absl::StrCat("tokenizer.ggml.tokens: ", Shown(token.text), " is there twice"));
  }
  tokenizer["model"]["vocab"] = std::move(vocab);
  tokenizer["added_tokens"] = std::move(added);
  return absl::OkStatus();
}

absl::StatusOr<json> ByteLevelTokenizer(const JsonNode& metadata) {
  TF_ASSIGN_OR_RETURN(const JsonNode pre_node, metadata.Child("tokenizer.ggml.pre"));
  TF_ASSIGN_OR_RETURN(const std::string name, pre_node.String());
  const auto& known = PreTokenizers();
  const auto pre = std::find_if(known.begin(), known.end(), [&](const PreTokenizer& p) { return p.name == name; });
  if (pre == known.end()) {
    return pre_node.NotSupported(absl::StrCat(
        "the pre-tokenizer ", Shown(name), " is not known; known: ",
        absl::StrJoin(known, ", ", [](std::string* out, const PreTokenizer& p) { absl::StrAppend(out, p.name); })));
  }
  json steps = json::array();
  for (const absl::string_view split : pre->splits) {
    steps.push_back(
        {{"type", "Split"}, {"pattern", {{"Regex", std::string(split)}}}, {"behavior", "Isolated"}, {"invert", false}});
  }
  steps.push_back({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}});
  TF_ASSIGN_OR_RETURN(const JsonNode merges, metadata.Child("tokenizer.ggml.merges"));
  json tokenizer = {{"normalizer", pre->is_nfc ? json{{"type", "NFC"}} : json()},
                    {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}}},
                    {"decoder", {{"type", "ByteLevel"}}},
                    {"model", {{"type", "BPE"}, {"ignore_merges", pre->ignore_merges}, {"merges", merges.value()}}}};
  TF_ASSIGN_OR_RETURN(const std::vector<Token> tokens, ReadTokens(metadata));
  TF_RETURN_IF_ERROR(AddVocabulary(metadata, tokens, /*keep_special_in_vocab=*/false, tokenizer));
  return tokenizer;
}

// SentencePiece joins the two neighbours whose joint piece has the highest score: as merges, every way to cut a piece
// into two pieces, the best piece first.
absl::StatusOr<json> MergesByScore(const JsonNode& metadata, const std::vector<Token>& tokens) {
  TF_ASSIGN_OR_RETURN(const auto scores, TokenList(metadata, "tokenizer.ggml.scores", tokens.size()));
  absl::flat_hash_map<absl::string_view, size_t> ids;
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (tokens[id].type == kNormal) ids.emplace(tokens[id].text, id);
  }
  std::vector<std::tuple<double, size_t, size_t>> merges;  // minus the score, where it is cut, id
  for (const auto& [text, id] : ids) {
    if (!scores[id].value().is_number() || std::isnan(scores[id].value().get<double>())) {
      return scores[id].Error("is no number");
    }
    if (text.size() > kMaxScoredBytes) {  // it is cut everywhere
      return metadata.Error(absl::StrCat("tokenizer.ggml.tokens: token ", id, " has ", text.size(), " bytes; at most ",
                                         kMaxScoredBytes, " are allowed"));
    }
    for (size_t cut = 0; cut < text.size();) {
      DecodeUtf8(text, cut);
      if (cut == text.size() || !ids.contains(text.substr(0, cut)) || !ids.contains(text.substr(cut))) continue;
      merges.emplace_back(-scores[id].value().get<double>(), cut, id);
    }
  }
  std::sort(merges.begin(), merges.end(), [](const auto& a, const auto& b) {
    const auto& [score_a, cut_a, id_a] = a;
    const auto& [score_b, cut_b, id_b] = b;
    return std::tuple(score_a, id_a, cut_a) < std::tuple(score_b, id_b, cut_b);
  });
  json list = json::array();
  for (const auto& [score, cut, id] : merges) {
    const absl::string_view text = tokens[id].text;
    list.push_back({std::string(text.substr(0, cut)), std::string(text.substr(cut))});
  }
  return list;
}

absl::StatusOr<json> ScoredTokenizer(const JsonNode& metadata) {
  const std::string mark = "\u2581";
  TF_ASSIGN_OR_RETURN(const bool collapses, metadata.BoolOr("tokenizer.ggml.remove_extra_whitespaces", false));
  if (collapses) return metadata.NotSupported("tokenizer.ggml.remove_extra_whitespaces is true");
  TF_ASSIGN_OR_RETURN(const bool prefix, metadata.BoolOr("tokenizer.ggml.add_space_prefix", true));
  const json replace = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", mark}};
  const json restore = {{"type", "Replace"}, {"pattern", {{"String", mark}}}, {"content", " "}};
  json normalizers = json::array(), decoders = {restore, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}};
  if (prefix) {
    normalizers.push_back({{"type", "Prepend"}, {"prepend", mark}});
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  normalizers.push_back(replace);
  TF_ASSIGN_OR_RETURN(const std::vector<Token> tokens, ReadTokens(metadata));
  TF_ASSIGN_OR_RETURN(json merges, MergesByScore(metadata, tokens));
  json tokenizer = {
      {"normalizer", {{"type", "Sequence"}, {"normalizers", std::move(normalizers)}}},
      {"decoder", {{"type", "Sequence"}, {"decoders", std::move(decoders)}}},
      {"model", {{"type", "BPE"}, {"fuse_unk", true}, {"byte_fallback", true}, {"merges", std::move(merges)}}}};
  const auto unknown = std::find_if(tokens.begin(), tokens.end(), [](const Token& t) { return t.type == kUnknown; });
  if (unknown != tokens.end()) tokenizer["model"]["unk_token"] = unknown->text;
  TF_RETURN_IF_ERROR(AddVocabulary(metadata, tokens, /*keep_special_in_vocab=*/true, tokenizer));
  return tokenizer;
}

// The chat template without a name, and those with one (tokenizer.chat_template.NAME).
json ChatTemplates(const json& metadata) {
  constexpr absl::string_view kKey = "tokenizer.chat_template";
  json list = json::array();
  for (const auto& [key, text] : metadata.items()) {
    absl::string_view name = key;
    if (!text.is_string() || !absl::ConsumePrefix(&name, kKey)) continue;
    if (name.empty()) name = ".default";
    if (absl::ConsumePrefix(&name, ".")) list.push_back({{"name", std::string(name)}, {"template", text}});
  }
  return list;
}

}  // namespace

absl::StatusOr<JsonDocument> TokenizerJsonOfGguf(const JsonNode& metadata, const std::string& path) {
  TF_RETURN_IF_ERROR(CheckTexts(metadata));
  TF_ASSIGN_OR_RETURN(const JsonNode kind_node, metadata.Child("tokenizer.ggml.model"));
  TF_ASSIGN_OR_RETURN(const std::string kind, kind_node.String());
  if (kind != "gpt2" && kind != "llama") {
    return kind_node.NotSupported(absl::StrCat("the tokenizer ", Shown(kind), " is not supported; known: gpt2, llama"));
  }
  TF_ASSIGN_OR_RETURN(json tokenizer, kind == "gpt2" ? ByteLevelTokenizer(metadata) : ScoredTokenizer(metadata));
  return JsonDocument::Of(std::move(tokenizer),
                          absl::StrCat(path, " (its tokenizer by the names of a tokenizer.json)"));
}

absl::StatusOr<JsonDocument> TokenizerConfigOfGguf(const JsonNode& metadata, const std::string& path) {
  TF_RETURN_IF_ERROR(CheckTexts(metadata));
  TF_ASSIGN_OR_RETURN(const std::vector<Token> tokens, ReadTokens(metadata));
  json config = json::object();
  constexpr std::pair<absl::string_view, absl::string_view> kSpecial[] = {
      {"bos", "bos_token"}, {"eos", "eos_token"}, {"padding", "pad_token"}, {"unknown", "unk_token"}};
  for (const auto& [name, key] : kSpecial) {
    TF_ASSIGN_OR_RETURN(const auto node, metadata.Optional(absl::StrCat("tokenizer.ggml.", name, "_token_id")));
    if (!node) continue;
    TF_ASSIGN_OR_RETURN(const int64_t id, node->Int(0, static_cast<int64_t>(tokens.size()) - 1));
    config[std::string(key)] = tokens[static_cast<size_t>(id)].text;
  }
  // Where files say nothing, as ggml does it: by the kind of the tokenizer.
  TF_ASSIGN_OR_RETURN(const std::string kind, metadata.StringOr("tokenizer.ggml.model", ""));
  TF_ASSIGN_OR_RETURN(const std::string pre, metadata.StringOr("tokenizer.ggml.pre", ""));
  const bool begins = kind == "llama" || pre == "llama-bpe" || pre == "llama3" || pre == "llama4";
  TF_ASSIGN_OR_RETURN(config["add_bos_token"], metadata.BoolOr("tokenizer.ggml.add_bos_token", begins));
  TF_ASSIGN_OR_RETURN(config["add_eos_token"], metadata.BoolOr("tokenizer.ggml.add_eos_token", false));
  if (json templates = ChatTemplates(metadata.value()); !templates.empty())
    config["chat_template"] = std::move(templates);
  return JsonDocument::Of(std::move(config),
                          absl::StrCat(path, " (its tokenizer by the names of a tokenizer_config.json)"));
}

}  // namespace tokenferry

#include "runtime/text/model_load.h"

#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "runtime/text/byte_alphabet.h"
#include "runtime/text/unicode.h"

namespace tokenferry {
namespace {

constexpr absl::string_view kMark = "\u2581";  // SentencePiece's space

absl::Status TwiceUsed(const JsonNode& node, int32_t id, absl::string_view token) {
  return node.Error(absl::StrCat("id ", id, " of ", Shown(token), " is also that of another token"));
}

absl::StatusOr<VocabIds> LoadVocab(const JsonNode& model, Tokenizer::Data& data) {
  TF_ASSIGN_OR_RETURN(JsonNode node, model.Child("vocab"));
  if (!node.value().is_object()) return node.Error("must be an object");
  VocabIds ids;
  ids.reserve(node.value().size());
  for (const auto& [token, value] : node.value().get_ref<const nlohmann::json::object_t&>()) {
    TF_ASSIGN_OR_RETURN(const int32_t id, TokenId(node.At(value)));
    ids.emplace(token, id);
    if (!data.AddToken(id, token)) return TwiceUsed(node, id, token);
  }
  return ids;
}

// `crosses`: set where the merge joins the end of one word to the mark that begins the next.
absl::Status LoadMerge(const JsonNode& node, const VocabIds& ids, int32_t rank, BpeModel& bpe, bool& crosses) {
  const nlohmann::json& merge = node.value();
  std::vector<absl::string_view> parts;
  if (const auto* line = merge.get_ptr<const std::string*>()) {
    if (absl::StartsWith(*line, "#version")) return absl::OkStatus();
    parts = absl::StrSplit(*line, ' ');
  } else if (merge.is_array() && merge.size() <= 2) {
    for (const nlohmann::json& part : merge) {
      if (const auto* text = part.get_ptr<const std::string*>()) parts.push_back(*text);
    }
  }
  if (parts.size() != 2) return node.Error("must be \"left right\" or [\"left\", \"right\"]");
  std::string merged = absl::StrCat(parts[0], parts[1]);
  for (absl::string_view token : {parts[0], parts[1], absl::string_view(merged)}) {
    if (!ids.contains(token)) return node.Error(absl::StrCat(Shown(token), " is not in the vocabulary"));
  }
  crosses = crosses || (!absl::EndsWith(parts[0], kMark) && absl::StartsWith(parts[1], kMark));
  bpe.merges[BpeModel::PairKey(ids.at(parts[0]), ids.at(parts[1]))] = {rank, ids.at(merged)};
  return absl::OkStatus();
}

absl::Status CheckBpeOptions(const JsonNode& model) {
  for (absl::string_view key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    TF_ASSIGN_OR_RETURN(std::string affix, model.StringOr(key, ""));
    if (!affix.empty()) return model.NotSupported(key);
  }
  TF_ASSIGN_OR_RETURN(std::optional<JsonNode> dropout, model.Optional("dropout"));
  if (dropout && !(dropout->value().is_number() && dropout->value() == 0))
    return dropout->NotSupported("not 0 or null");
  return absl::OkStatus();
}

// The ids of <0x00> to <0xFF>: all of them, or none.
absl::StatusOr<std::vector<int32_t>> FallbackBytes(const JsonNode& model, const VocabIds& ids) {
  std::vector<int32_t> bytes;
  std::string missing;
  for (int b = 0; b < 256; ++b) {
    const std::string token = absl::StrFormat("<0x%02X>", b);
    const auto it = ids.find(token);
    if (it == ids.end()) {
      missing = token;
    } else {
      bytes.push_back(it->second);
    }
  }
  if (bytes.empty() || bytes.size() == 256) return bytes;
  return model.NotSupported(absl::StrCat("byte_fallback without ", missing, " in the vocabulary"));
}

absl::Status LoadBpeAlphabet(const JsonNode& model, const VocabIds& ids, const Pretokenizer& pretokenizer,
                             BpeModel& bpe) {
  bpe.byte_ids.fill(-1);
  TF_ASSIGN_OR_RETURN(const bool byte_fallback, model.BoolOr("byte_fallback", false));
  if (pretokenizer.is_byte_level) {
    bpe.alphabet = BpeAlphabet::kBytes;
    for (size_t b = 0; b < 256; ++b) {
      std::string character;
      AppendUtf8(ByteAlphabet::Get().character(static_cast<uint8_t>(b)), character);
      const auto it = ids.find(character);
      if (it != ids.end()) bpe.byte_ids[b] = it->second;
    }
    return byte_fallback ? model.NotSupported("byte_fallback behind a ByteLevel pre-tokenizer") : absl::OkStatus();
  }
  bpe.alphabet = BpeAlphabet::kCharacters;
  for (const auto& [token, id] : ids) {
    size_t end = 0;
    if (token.empty()) continue;
    const char32_t character = DecodeUtf8(token, end);
    if (end == token.size()) bpe.character_ids.emplace(character, id);
  }
  if (!byte_fallback) return absl::OkStatus();
  TF_ASSIGN_OR_RETURN(const std::vector<int32_t> bytes, FallbackBytes(model, ids));
  std::copy(bytes.begin(), bytes.end(), bpe.byte_ids.begin());
  return absl::OkStatus();
}

absl::StatusOr<VocabIds> LoadBpe(const JsonNode& model, Tokenizer::Data& data) {
  TF_RETURN_IF_ERROR(CheckBpeOptions(model));
  BpeModel bpe;
  TF_ASSIGN_OR_RETURN(bpe.ignore_merges, model.BoolOr("ignore_merges", false));
  TF_ASSIGN_OR_RETURN(bpe.fuse_unk, model.BoolOr("fuse_unk", false));
  TF_ASSIGN_OR_RETURN(VocabIds ids, LoadVocab(model, data));
  TF_RETURN_IF_ERROR(LoadBpeAlphabet(model, ids, data.pretokenizer, bpe));
  if (bpe.ignore_merges) {
    for (const auto& [token, id] : ids) {
      std::optional<std::string> piece = token;
      if (bpe.alphabet == BpeAlphabet::kBytes) piece = ByteAlphabet::Get().Decode(token);
      if (piece) bpe.ids.emplace(*std::move(piece), id);
    }
  }
  TF_ASSIGN_OR_RETURN(std::string unk, model.StringOr("unk_token", ""));
  if (!unk.empty()) {
    if (!ids.contains(unk)) return model.Error(absl::StrCat("unk_token ", Shown(unk), " is not in the vocabulary"));
    bpe.unk_id = ids.at(unk);
  }
  TF_ASSIGN_OR_RETURN(JsonNode merges, model.Child("merges"));
  if (!merges.value().is_array()) return merges.Error("must be an array");
  int32_t rank = 0;
  bool crosses = false;
  for (const nlohmann::json& merge : merges.value()) {
    TF_RETURN_IF_ERROR(LoadMerge(merges.At(merge), ids, rank, bpe, crosses));
    ++rank;
  }
  const bool by_words = bpe.alphabet == BpeAlphabet::kCharacters && !bpe.ignore_merges && !crosses;
  if (by_words && ids.contains(kMark)) bpe.word_mark = std::string(kMark);
  data.model = std::move(bpe);
  return ids;
}

absl::StatusOr<VocabIds> LoadUnigram(const JsonNode& model, Tokenizer::Data& data) {
  TF_ASSIGN_OR_RETURN(JsonNode node, model.Child("vocab"));
  TF_ASSIGN_OR_RETURN(std::vector<JsonNode> entries, node.Elements());
  VocabIds ids;
  std::vector<std::pair<std::string, double>> vocabulary;
  for (const JsonNode& entry : entries) {
    const nlohmann::json& pair = entry.value();
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string() || !pair[1].is_number()) {
      return entry.Error("must be [text, log-probability]");
    }
    const auto id = static_cast<int32_t>(vocabulary.size());
    vocabulary.emplace_back(pair[0].get<std::string>(), pair[1].get<double>());
    const std::string& token = vocabulary.back().first;
    if (!ids.emplace(token, id).second)
      return entry.Error(absl::StrCat(Shown(token), " stands in the vocabulary twice"));
    if (!data.AddToken(id, token)) return TwiceUsed(entry, id, token);
  }
  TF_ASSIGN_OR_RETURN(JsonNode unk_node, model.Child("unk_id"));
  TF_ASSIGN_OR_RETURN(const int32_t unk_id, TokenId(unk_node));
  if (unk_id >= static_cast<int32_t>(vocabulary.size())) return unk_node.Error("no such token");
  std::vector<int32_t> bytes;
  TF_ASSIGN_OR_RETURN(const bool byte_fallback, model.BoolOr("byte_fallback", false));
  if (byte_fallback) {
    TF_ASSIGN_OR_RETURN(bytes, FallbackBytes(model, ids));
  }
  data.model = UnigramModel(vocabulary, unk_id, std::move(bytes));
  return ids;
}

// The ids that a TemplateProcessing puts before and behind a single sequence.
absl::Status LoadTemplate(const JsonNode& node, Tokenizer::Data& data) {
  TF_ASSIGN_OR_RETURN(JsonNode single, node.Child("single"));
  TF_ASSIGN_OR_RETURN(std::vector<JsonNode> parts, single.Elements());
  std::vector<int32_t>* ids = &data.prefix_ids;
  for (const JsonNode& part : parts) {
    TF_ASSIGN_OR_RETURN(std::optional<JsonNode> token, part.Optional("SpecialToken"));
    if (!token) {
      if (ids == &data.suffix_ids) return part.NotSupported("the sequence twice");
      ids = &data.suffix_ids;
      continue;
    }
    TF_ASSIGN_OR_RETURN(JsonNode name_node, token->Child("id"));
    TF_ASSIGN_OR_RETURN(std::string name, name_node.String());
    TF_ASSIGN_OR_RETURN(JsonNode special_tokens, node.Child("special_tokens"));
    TF_ASSIGN_OR_RETURN(JsonNode entry, special_tokens.Child(name));
    TF_ASSIGN_OR_RETURN(JsonNode ids_node, entry.Child("ids"));
    TF_ASSIGN_OR_RETURN(std::vector<JsonNode> values, ids_node.Elements());
    for (const JsonNode& value : values) {
      TF_ASSIGN_OR_RETURN(const int32_t id, TokenId(value));
      if (!data.token_bytes.contains(id)) return value.Error("no such token");
      ids->push_back(id);
    }
  }
  if (!data.prefix_ids.empty()) data.bos_id = data.prefix_ids.front();
  return absl::OkStatus();
}

absl::Status LoadProcessor(const JsonNode& node, int depth, Tokenizer::Data& data) {
  TF_ASSIGN_OR_RETURN(JsonNode type_node, node.Child("type"));
  TF_ASSIGN_OR_RETURN(std::string type, type_node.String());
  if (type == "ByteLevel") return absl::OkStatus();  // offsets only
  if (type == "TemplateProcessing") {
    if (!data.prefix_ids.empty() || !data.suffix_ids.empty()) return type_node.NotSupported("a second template");
    return LoadTemplate(node, data);
  }
  if (type != "Sequence") return type_node.NotSupported(absl::StrCat("post-processor ", Shown(type)));
  if (depth == kMaxSequenceDepth) return node.NotSupported("Sequences nested this deep");
  TF_ASSIGN_OR_RETURN(JsonNode list, node.Child("processors"));
  TF_ASSIGN_OR_RETURN(std::vector<JsonNode> members, list.Elements());
  for (const JsonNode& member : members) TF_RETURN_IF_ERROR(LoadProcessor(member, depth + 1, data));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<VocabIds> LoadModel(const JsonNode& root, Tokenizer::Data& data) {
  TF_ASSIGN_OR_RETURN(JsonNode model, root.Child("model"));
  TF_ASSIGN_OR_RETURN(std::string type, model.StringOr("type", "BPE"));  // files of early versions do not say
  if (type == "BPE") return LoadBpe(model, data);
  if (type == "Unigram") return LoadUnigram(model, data);
  return model.NotSupported(absl::StrCat("type ", Shown(type)));
}

absl::Status LoadPostProcessor(const JsonNode& root, Tokenizer::Data& data) {
  TF_ASSIGN_OR_RETURN(std::optional<JsonNode> node, root.Optional("post_processor"));
  return node ? LoadProcessor(*node, 0, data) : absl::OkStatus();
}

}  // namespace tokenferry

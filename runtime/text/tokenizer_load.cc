// Tokenizer::Load and FromJson: from JSON to Tokenizer::Data.
#include <unistd.h>

#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "runtime/text/pretokenizer_load.h"
#include "runtime/text/tokenizer.h"
#include "runtime/text/tokenizer_data.h"
#include "runtime/text/tokenizer_json.h"
#include "runtime/text/unicode.h"

namespace tokenferry {

std::array<char32_t, 256> ByteCharacters() {
  std::array<char32_t, 256> characters;
  char32_t next = 0x100;
  for (char32_t b = 0; b < 256; ++b) {
    bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    characters[b] = printable ? b : next++;
  }
  return characters;
}

namespace {

constexpr size_t kMaxAddedTokenBytes = 1024;

using AddedTokens = std::map<int32_t, std::pair<AddedToken, JsonNode>>;  // by id; with the value, for errors
using VocabIds = absl::flat_hash_map<absl::string_view, int32_t>;        // by token as written in the file

// The bytes of a token as a ByteLevel decoder sees them, and whether it is written in byte characters throughout.
class ByteAlphabet {
 public:
  ByteAlphabet() {
    std::array<char32_t, 256> characters = ByteCharacters();
    for (size_t b = 0; b < 256; ++b) bytes_[characters[b]] = static_cast<char>(b);
  }

  std::optional<std::string> Decode(absl::string_view token) const {
    std::string bytes;
    for (size_t pos = 0; pos < token.size();) {
      auto it = bytes_.find(DecodeUtf8(token, pos));
      if (it == bytes_.end()) return std::nullopt;
      bytes += it->second;
    }
    return bytes;
  }

 private:
  absl::flat_hash_map<char32_t, char> bytes_;
};

absl::Status CheckNormalizer(const JsonNode& node, int depth, bool& nfc) {
  TF_ASSIGN_OR_RETURN(JsonNode type_node, node.Child("type"));
  TF_ASSIGN_OR_RETURN(std::string type, type_node.String());
  if (type == "NFC") {
    nfc = true;
    return absl::OkStatus();
  }
  if (type != "Sequence") return type_node.NotSupported(absl::StrCat("normalizer ", Shown(type)));
  if (depth == kMaxSequenceDepth) return node.NotSupported("Sequences nested this deep");
  TF_ASSIGN_OR_RETURN(JsonNode list, node.Child("normalizers"));
  TF_ASSIGN_OR_RETURN(std::vector<JsonNode> members, list.Elements());
  for (const JsonNode& member : members) TF_RETURN_IF_ERROR(CheckNormalizer(member, depth + 1, nfc));
  return absl::OkStatus();
}

absl::Status CheckDecoder(const JsonNode& root) {
  TF_ASSIGN_OR_RETURN(std::optional<JsonNode> node, root.Optional("decoder"));
  if (!node) return root.NotSupported("no decoder; only ByteLevel is supported so far");
  TF_ASSIGN_OR_RETURN(JsonNode type_node, node->Child("type"));
  TF_ASSIGN_OR_RETURN(std::string type, type_node.String());
  if (type == "ByteLevel") return absl::OkStatus();
  return type_node.NotSupported(absl::StrCat("decoder ", Shown(type), "; only ByteLevel is supported so far"));
}

// A TemplateProcessing whose single sequence starts with a special token names the bos token.
absl::Status LoadTemplate(const JsonNode& node, Tokenizer::Data& data) {
  TF_ASSIGN_OR_RETURN(JsonNode single, node.Child("single"));
  TF_ASSIGN_OR_RETURN(std::vector<JsonNode> parts, single.Elements());
  if (parts.empty()) return absl::OkStatus();
  TF_ASSIGN_OR_RETURN(std::optional<JsonNode> token, parts[0].Optional("SpecialToken"));
  if (!token) return absl::OkStatus();
  TF_ASSIGN_OR_RETURN(JsonNode name_node, token->Child("id"));
  TF_ASSIGN_OR_RETURN(std::string name, name_node.String());
  TF_ASSIGN_OR_RETURN(JsonNode special_tokens, node.Child("special_tokens"));
  TF_ASSIGN_OR_RETURN(JsonNode entry, special_tokens.Child(name));
  TF_ASSIGN_OR_RETURN(JsonNode ids_node, entry.Child("ids"));
  TF_ASSIGN_OR_RETURN(std::vector<JsonNode> ids, ids_node.Elements());
  if (ids.size() != 1) return ids_node.NotSupported("other than one id");
  TF_ASSIGN_OR_RETURN(data.bos_id, TokenId(ids[0]));
  if (!data.token_bytes.contains(data.bos_id)) return ids[0].Error("no such token");
  data.add_bos = true;
  return absl::OkStatus();
}

absl::Status LoadPostProcessor(const JsonNode& node, int depth, Tokenizer::Data& data) {
  TF_ASSIGN_OR_RETURN(JsonNode type_node, node.Child("type"));
  TF_ASSIGN_OR_RETURN(std::string type, type_node.String());
  if (type == "ByteLevel") return absl::OkStatus();  // offsets only
  if (type == "TemplateProcessing") return LoadTemplate(node, data);
  if (type != "Sequence") return type_node.NotSupported(absl::StrCat("post-processor ", Shown(type)));
  if (depth == kMaxSequenceDepth) return node.NotSupported("Sequences nested this deep");
  TF_ASSIGN_OR_RETURN(JsonNode list, node.Child("processors"));
  TF_ASSIGN_OR_RETURN(std::vector<JsonNode> members, list.Elements());
  for (const JsonNode& member : members) TF_RETURN_IF_ERROR(LoadPostProcessor(member, depth + 1, data));
  return absl::OkStatus();
}

absl::StatusOr<VocabIds> LoadVocab(const JsonNode& model, const ByteAlphabet& alphabet, Tokenizer::Data& data) {
  TF_ASSIGN_OR_RETURN(JsonNode node, model.Child("vocab"));
  if (!node.value().is_object()) return node.Error("must be an object");
  VocabIds ids;
  ids.reserve(node.value().size());
  for (const auto& [token, value] : node.value().get_ref<const nlohmann::json::object_t&>()) {
    TF_ASSIGN_OR_RETURN(const int32_t id, TokenId(node.At(value)));
    ids.emplace(token, id);
    std::optional<std::string> bytes = alphabet.Decode(token);
    if (!data.token_bytes.emplace(id, bytes.value_or(token)).second) {
      return node.Error(absl::StrCat("id ", id, " of ", Shown(token), " is also that of another token"));
    }
    if (bytes && data.bpe.ignore_merges) data.bpe.ids.emplace(*std::move(bytes), id);
  }
  return ids;
}

absl::Status LoadMerge(const JsonNode& node, const VocabIds& ids, int32_t rank, BpeModel& bpe) {
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
  bpe.merges[BpeModel::PairKey(ids.at(parts[0]), ids.at(parts[1]))] = {rank, ids.at(merged)};
  return absl::OkStatus();
}

absl::Status CheckModelOptions(const JsonNode& model) {
  TF_ASSIGN_OR_RETURN(std::string type, model.StringOr("type", "BPE"));  // files of early versions do not say
  if (type != "BPE") return model.NotSupported(absl::StrCat("type ", Shown(type), "; only BPE is supported so far"));
  TF_ASSIGN_OR_RETURN(bool byte_fallback, model.BoolOr("byte_fallback", false));
  if (byte_fallback) return model.NotSupported("byte_fallback");
  for (absl::string_view key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    TF_ASSIGN_OR_RETURN(std::string affix, model.StringOr(key, ""));
    if (!affix.empty()) return model.NotSupported(key);
  }
  TF_ASSIGN_OR_RETURN(std::optional<JsonNode> dropout, model.Optional("dropout"));
  if (dropout && !(dropout->value().is_number() && dropout->value() == 0))
    return dropout->NotSupported("not 0 or null");
  return absl::OkStatus();
}

absl::StatusOr<VocabIds> LoadModel(const JsonNode& root, const ByteAlphabet& alphabet, Tokenizer::Data& data) {
  TF_ASSIGN_OR_RETURN(JsonNode model, root.Child("model"));
  TF_RETURN_IF_ERROR(CheckModelOptions(model));
  TF_ASSIGN_OR_RETURN(data.bpe.ignore_merges, model.BoolOr("ignore_merges", false));
  TF_ASSIGN_OR_RETURN(data.bpe.fuse_unk, model.BoolOr("fuse_unk", false));
  TF_ASSIGN_OR_RETURN(VocabIds ids, LoadVocab(model, alphabet, data));

  std::array<char32_t, 256> characters = ByteCharacters();
  for (size_t b = 0; b < 256; ++b) {
    std::string character;
    AppendUtf8(characters[b], character);
    auto it = ids.find(character);
    data.bpe.byte_ids[b] = it == ids.end() ? -1 : it->second;
  }
  TF_ASSIGN_OR_RETURN(std::string unk, model.StringOr("unk_token", ""));
  if (!unk.empty()) {
    if (!ids.contains(unk)) return model.Error(absl::StrCat("unk_token ", Shown(unk), " is not in the vocabulary"));
    data.bpe.unk_id = ids.at(unk);
  }

  TF_ASSIGN_OR_RETURN(JsonNode merges, model.Child("merges"));
  if (!merges.value().is_array()) return merges.Error("must be an array");
  int32_t rank = 0;
  for (const nlohmann::json& merge : merges.value()) {
    TF_RETURN_IF_ERROR(LoadMerge(merges.At(merge), ids, rank, data.bpe));
    ++rank;
  }
  return ids;
}

absl::Status AddAddedToken(const JsonNode& node, int32_t id, AddedTokens& added) {
  AddedToken token;
  token.id = id;
  TF_ASSIGN_OR_RETURN(JsonNode content, node.Child("content"));
  TF_ASSIGN_OR_RETURN(token.content, content.String());
  if (token.content.empty() || token.content.size() > kMaxAddedTokenBytes) {
    return content.Error(absl::StrCat("must have 1 to ", kMaxAddedTokenBytes, " bytes, has ", token.content.size()));
  }
  TF_ASSIGN_OR_RETURN(token.single_word, node.BoolOr("single_word", false));
  TF_ASSIGN_OR_RETURN(token.lstrip, node.BoolOr("lstrip", false));
  TF_ASSIGN_OR_RETURN(token.rstrip, node.BoolOr("rstrip", false));
  TF_ASSIGN_OR_RETURN(token.special, node.BoolOr("special", false));
  TF_ASSIGN_OR_RETURN(token.normalized, node.BoolOr("normalized", !token.special));
  added.insert_or_assign(id, std::make_pair(std::move(token), node));
  return absl::OkStatus();
}

absl::Status LoadAddedTokens(const JsonNode& root, AddedTokens& added) {
  TF_ASSIGN_OR_RETURN(std::optional<JsonNode> list, root.Optional("added_tokens"));
  if (!list) return absl::OkStatus();
  TF_ASSIGN_OR_RETURN(std::vector<JsonNode> tokens, list->Elements());
  for (const JsonNode& token : tokens) {
    TF_ASSIGN_OR_RETURN(JsonNode id_node, token.Child("id"));
    TF_ASSIGN_OR_RETURN(int32_t id, TokenId(id_node));
    if (added.contains(id)) return id_node.Error(absl::StrCat(id, " is also the id of another added token"));
    TF_RETURN_IF_ERROR(AddAddedToken(token, id, added));
  }
  return absl::OkStatus();
}

absl::Status LoadAddedTokensDecoder(const JsonNode& config, AddedTokens& added) {
  TF_ASSIGN_OR_RETURN(std::optional<JsonNode> node, config.Optional("added_tokens_decoder"));
  if (!node) return absl::OkStatus();
  if (!node->value().is_object()) return node->Error("must be an object");
  for (const auto& [key, value] : node->value().items()) {
    const JsonNode token = node->At(value);
    int32_t id = -1;
    if (!absl::SimpleAtoi(key, &id) || id < 0 || id >= 1 << 24) return token.Error("the key must be a token id");
    TF_RETURN_IF_ERROR(AddAddedToken(token, id, added));
  }
  return absl::OkStatus();
}

// Enters the added tokens into the vocabulary and the matchers.
absl::Status InstallAddedTokens(const AddedTokens& added, const ByteAlphabet& alphabet, VocabIds& ids,
                                Tokenizer::Data& data) {
  std::vector<AddedToken> raw, normalized;
  for (const auto& [id, entry] : added) {
    const auto& [token, node] = entry;
    auto [it, is_new] = ids.emplace(token.content, id);
    if (it->second != id) {
      return node.Error(absl::StrCat(Shown(token.content), " has id ", id, " here and ", it->second, " elsewhere"));
    }
    std::string bytes = alphabet.Decode(token.content).value_or(token.content);
    if (!data.token_bytes.emplace(id, std::move(bytes)).second && is_new) {
      return node.Error(absl::StrCat("id ", id, " of ", Shown(token.content), " is also that of another token"));
    }
    if (token.special) data.special_ids.insert(id);
    (token.normalized ? normalized : raw).push_back(token);
    if (token.normalized && data.nfc) normalized.back().content = Nfc(token.content);
  }
  data.raw_tokens = AddedTokenMatcher(std::move(raw));
  data.normalized_tokens = AddedTokenMatcher(std::move(normalized));
  return absl::OkStatus();
}

// bos_token and eos_token: a string or an AddedToken object. -1 where absent.
absl::StatusOr<int32_t> LoadNamedToken(const JsonNode& config, absl::string_view key, const VocabIds& ids) {
  TF_ASSIGN_OR_RETURN(std::optional<JsonNode> node, config.Optional(key));
  if (!node) return -1;
  std::string content;
  if (node->value().is_object()) {
    TF_ASSIGN_OR_RETURN(JsonNode content_node, node->Child("content"));
    TF_ASSIGN_OR_RETURN(content, content_node.String());
  } else {
    TF_ASSIGN_OR_RETURN(content, node->String());
  }
  auto it = ids.find(content);
  if (it == ids.end()) return node->Error(absl::StrCat(Shown(content), " is not in the vocabulary"));
  return it->second;
}

absl::Status LoadConfig(const JsonNode& config, const VocabIds& ids, Tokenizer::Data& data) {
  TF_ASSIGN_OR_RETURN(int32_t bos_id, LoadNamedToken(config, "bos_token", ids));
  if (bos_id >= 0) data.bos_id = bos_id;
  TF_ASSIGN_OR_RETURN(data.eos_id, LoadNamedToken(config, "eos_token", ids));
  TF_ASSIGN_OR_RETURN(data.add_bos, config.BoolOr("add_bos_token", data.add_bos));
  if (data.add_bos && data.bos_id < 0) return config.Error("add_bos_token is true but there is no bos_token");
  return absl::OkStatus();
}

// `config`: of tokenizer_config.json, or none.
absl::Status LoadData(const JsonNode& root, const std::optional<JsonNode>& config, Tokenizer::Data& data) {
  ByteAlphabet alphabet;
  // truncation and padding, which a file may also hold, are the caller's business.
  TF_ASSIGN_OR_RETURN(std::optional<JsonNode> normalizer, root.Optional("normalizer"));
  if (normalizer) TF_RETURN_IF_ERROR(CheckNormalizer(*normalizer, 0, data.nfc));
  TF_ASSIGN_OR_RETURN(data.pretokenizer, LoadPretokenizer(root));
  TF_RETURN_IF_ERROR(CheckDecoder(root));
  TF_ASSIGN_OR_RETURN(VocabIds ids, LoadModel(root, alphabet, data));

  AddedTokens added;
  TF_RETURN_IF_ERROR(LoadAddedTokens(root, added));
  if (config) TF_RETURN_IF_ERROR(LoadAddedTokensDecoder(*config, added));
  TF_RETURN_IF_ERROR(InstallAddedTokens(added, alphabet, ids, data));
  if (data.token_bytes.empty()) return root.Error("no tokens at all");
  for (const auto& [id, bytes] : data.token_bytes) data.max_id = std::max(data.max_id, id);

  TF_ASSIGN_OR_RETURN(std::optional<JsonNode> post, root.Optional("post_processor"));
  if (post) TF_RETURN_IF_ERROR(LoadPostProcessor(*post, 0, data));
  if (config) TF_RETURN_IF_ERROR(LoadConfig(*config, ids, data));
  return absl::OkStatus();
}

// What a model without a tokenizer.json has instead.
constexpr std::pair<absl::string_view, absl::string_view> kOtherTokenizers[] = {
    {"tiktoken.model", "a tiktoken vocabulary"},
    {"tokenizer.model", "a SentencePiece model"},
    {"tekken.json", "a Tekken vocabulary"},
    {"vocab.json", "a vocabulary without its rules"},
};

absl::Status NoTokenizer(const std::string& model_dir, const absl::Status& missing) {
  for (const auto& [file, what] : kOtherTokenizers) {
    if (access(absl::StrCat(model_dir, "/", file).c_str(), F_OK) != 0) continue;
    return absl::UnimplementedError(
        absl::StrCat(model_dir, ": has no tokenizer.json but ", file, ", ", what,
                     ", which cannot be read yet; save the model's tokenizer as tokenizer.json with transformers "
                     "(AutoTokenizer, save_pretrained), or give token ids to 'eval --ids'"));
  }
  return missing;
}

constexpr JsonLimits kTokenizerLimits = {.max_bytes = int64_t{128} << 20};

}  // namespace

absl::StatusOr<Tokenizer> Tokenizer::FromJson(absl::string_view json, absl::string_view name) {
  TF_ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::Parse(std::string(json), name, kTokenizerLimits));
  auto data = std::make_shared<Data>();
  TF_RETURN_IF_ERROR(LoadData(document.root(), std::nullopt, *data));
  return Tokenizer(std::move(data));
}

absl::StatusOr<Tokenizer> Tokenizer::Load(const std::string& model_dir) {
  const auto document = JsonDocument::ReadFile(absl::StrCat(model_dir, "/tokenizer.json"), kTokenizerLimits);
  if (absl::IsNotFound(document.status())) return NoTokenizer(model_dir, document.status());
  TF_RETURN_IF_ERROR(document.status());
  const auto config = JsonDocument::ReadFile(absl::StrCat(model_dir, "/tokenizer_config.json"), kTokenizerLimits);
  if (!config.ok() && !absl::IsNotFound(config.status())) return config.status();
  auto data = std::make_shared<Data>();
  TF_RETURN_IF_ERROR(
      LoadData(document->root(), config.ok() ? std::make_optional(config->root()) : std::nullopt, *data));
  return Tokenizer(std::move(data));
}

}  // namespace tokenferry

// Tokenizer::Load and FromJson: from a model's files to Tokenizer::Data.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/io/gguf.h"
#include "core/io/range_file.h"
#include "runtime/text/added_tokens_load.h"
#include "runtime/text/gguf_tokenizer.h"
#include "runtime/text/model_load.h"
#include "runtime/text/pretokenizer_load.h"
#include "runtime/text/sentencepiece_load.h"
#include "runtime/text/tiktoken_load.h"
#include "runtime/text/tokenizer.h"
#include "runtime/text/tokenizer_data.h"

namespace tokenferry {
namespace {

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

// Whether a plain prompt begins and ends with special tokens: what the file says, else what the post-processor does.
absl::Status LoadAffixes(const JsonNode& config, Tokenizer::Data& data) {
  TF_ASSIGN_OR_RETURN(const bool add_bos, config.BoolOr("add_bos_token", !data.prefix_ids.empty()));
  TF_ASSIGN_OR_RETURN(const bool add_eos, config.BoolOr("add_eos_token", !data.suffix_ids.empty()));
  if (add_bos && data.bos_id < 0) return config.Error("add_bos_token is true but there is no bos_token");
  if (add_eos && data.suffix_ids.empty() && data.eos_id < 0) {
    return config.Error("add_eos_token is true but there is no eos_token");
  }
  if (!add_bos) data.prefix_ids.clear();
  if (add_bos && data.prefix_ids.empty()) data.prefix_ids = {data.bos_id};
  if (!add_eos) data.suffix_ids.clear();
  if (add_eos && data.suffix_ids.empty()) data.suffix_ids = {data.eos_id};
  return absl::OkStatus();
}

absl::Status LoadConfig(const JsonNode& config, const VocabIds& ids, Tokenizer::Data& data) {
  TF_ASSIGN_OR_RETURN(int32_t bos_id, LoadNamedToken(config, "bos_token", ids));
  if (bos_id >= 0) data.bos_id = bos_id;
  TF_ASSIGN_OR_RETURN(const int32_t eos_id, LoadNamedToken(config, "eos_token", ids));
  if (eos_id >= 0) data.eos_id = eos_id;
  return LoadAffixes(config, data);
}

absl::Status Finish(const JsonNode& place, Tokenizer::Data& data) {
  if (data.token_bytes.empty()) return place.Error("no tokens at all");
  for (const auto& [id, bytes] : data.token_bytes) data.max_id = std::max(data.max_id, id);
  return absl::OkStatus();
}

// `config`: of tokenizer_config.json, or none.
absl::Status LoadData(const JsonNode& root, const std::optional<JsonNode>& config, Tokenizer::Data& data) {
  // truncation and padding, which a file may also hold, are the caller's business.
  TF_ASSIGN_OR_RETURN(data.normalizer, LoadNormalizer(root));
  TF_ASSIGN_OR_RETURN(data.pretokenizer, LoadPretokenizer(root));
  TF_ASSIGN_OR_RETURN(data.decoder, LoadTokenDecoder(root));
  TF_ASSIGN_OR_RETURN(VocabIds ids, LoadModel(root, data));

  AddedTokens added;
  TF_RETURN_IF_ERROR(LoadAddedTokens(root, added));
  if (config) TF_RETURN_IF_ERROR(LoadAddedTokensDecoder(*config, added));
  TF_RETURN_IF_ERROR(InstallAddedTokens(added, ids, data));
  TF_RETURN_IF_ERROR(Finish(root, data));
  TF_RETURN_IF_ERROR(LoadPostProcessor(root, data));
  return config ? LoadConfig(*config, ids, data) : absl::OkStatus();
}

// What transformers' slow classes take out of tokenizer_config.json and libsentencepiece does not know: each changes
// ids.
absl::Status CheckSentencePieceConfig(const JsonNode& config) {
  for (const absl::string_view key : {"legacy", "add_prefix_space"}) {
    TF_ASSIGN_OR_RETURN(const std::optional<JsonNode> node, config.Optional(key));
    if (!node) continue;
    TF_ASSIGN_OR_RETURN(const bool value, node->Bool());
    if (!value) return node->NotSupported("false with tokenizer.model alone; save the tokenizer as tokenizer.json");
  }
  TF_ASSIGN_OR_RETURN(const std::optional<JsonNode> sampling, config.Optional("sp_model_kwargs"));
  if (!sampling) return absl::OkStatus();
  TF_ASSIGN_OR_RETURN(const auto members, sampling->Members());
  return members.empty() ? absl::OkStatus() : sampling->NotSupported("options of SentencePiece");
}

// tiktoken.model or tokenizer.model; what else there is to know stands in tokenizer_config.json.
// NotFound: there is no such file.
absl::Status LoadModelFile(const std::string& path,
                           absl::StatusOr<VocabIds> (*load)(const std::string&, Tokenizer::Data&),
                           const std::optional<JsonNode>& config, Tokenizer::Data& data) {
  TF_RETURN_IF_ERROR(RangeFile::Open(path).status());
  if (!config) return absl::InvalidArgumentError(absl::StrCat(path, ": needs a tokenizer_config.json beside it"));
  if (load == LoadSentencePiece) TF_RETURN_IF_ERROR(CheckSentencePieceConfig(*config));
  TF_ASSIGN_OR_RETURN(VocabIds ids, load(path, data));
  AddedTokens added;
  TF_RETURN_IF_ERROR(LoadAddedTokensDecoder(*config, added));
  if (load == LoadTiktoken) AddReservedTokens(data, *config, added);
  TF_RETURN_IF_ERROR(InstallAddedTokens(added, ids, data));
  TF_RETURN_IF_ERROR(Finish(*config, data));
  return LoadConfig(*config, ids, data);
}

// What a model without a tokenizer.json has instead.
constexpr std::pair<absl::string_view, absl::string_view> kOtherTokenizers[] = {
    {"tekken.json", "a Tekken vocabulary"},
    {"vocab.json", "a vocabulary without its rules"},
};

absl::Status NoTokenizer(const std::string& model_dir, const absl::Status& missing) {
  for (const auto& [file, what] : kOtherTokenizers) {
    if (absl::IsNotFound(RangeFile::Open(absl::StrCat(model_dir, "/", file)).status())) continue;
    return absl::UnimplementedError(
        absl::StrCat(model_dir, ": has no tokenizer.json but ", file, ", ", what,
                     ", which cannot be read yet; save the model's tokenizer as tokenizer.json with transformers "
                     "(AutoTokenizer, save_pretrained), or give token ids to 'eval --ids'"));
  }
  return missing;
}

absl::Status LoadGguf(const std::string& path, Tokenizer::Data& data) {
  TF_ASSIGN_OR_RETURN(const JsonDocument metadata, ReadGgufMetadata(path));
  TF_ASSIGN_OR_RETURN(const JsonDocument tokenizer, TokenizerJsonOfGguf(metadata.root(), path));
  TF_ASSIGN_OR_RETURN(const JsonDocument config, TokenizerConfigOfGguf(metadata.root(), path));
  return LoadData(tokenizer.root(), config.root(), data);
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
  if (IsGgufPath(model_dir)) {
    auto gguf_data = std::make_shared<Data>();
    TF_RETURN_IF_ERROR(LoadGguf(model_dir, *gguf_data));
    return Tokenizer(std::move(gguf_data));
  }
  const auto config_file = JsonDocument::ReadFile(absl::StrCat(model_dir, "/tokenizer_config.json"), kTokenizerLimits);
  if (!config_file.ok() && !absl::IsNotFound(config_file.status())) return config_file.status();
  const auto config = config_file.ok() ? std::make_optional(config_file->root()) : std::nullopt;
  auto data = std::make_shared<Data>();
  const auto document = JsonDocument::ReadFile(absl::StrCat(model_dir, "/tokenizer.json"), kTokenizerLimits);
  absl::Status loaded = document.status();
  if (document.ok()) {
    loaded = LoadData(document->root(), config, *data);
  } else if (absl::IsNotFound(loaded)) {
    loaded = LoadModelFile(model_dir + "/tiktoken.model", LoadTiktoken, config, *data);
    if (absl::IsNotFound(loaded)) {
      loaded = LoadModelFile(model_dir + "/tokenizer.model", LoadSentencePiece, config, *data);
    }
    if (absl::IsNotFound(loaded)) loaded = NoTokenizer(model_dir, document.status());
  }
  TF_RETURN_IF_ERROR(loaded);
  return Tokenizer(std::move(data));
}

}  // namespace tokenferry

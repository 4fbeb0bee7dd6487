#include "runtime/text/added_tokens_load.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"

namespace tokenferry {
namespace {

constexpr size_t kMaxAddedTokenBytes = 1024;

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

}  // namespace

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

absl::Status InstallAddedTokens(const AddedTokens& added, VocabIds& ids, Tokenizer::Data& data) {
  std::vector<AddedToken> raw, normalized;
  for (const auto& [id, entry] : added) {
    const auto& [token, node] = entry;
    auto [it, is_new] = ids.emplace(token.content, id);
    if (it->second != id) {
      return node.Error(absl::StrCat(Shown(token.content), " has id ", id, " here and ", it->second, " elsewhere"));
    }
    if (!data.AddToken(id, token.content) && is_new) {
      return node.Error(absl::StrCat("id ", id, " of ", Shown(token.content), " is also that of another token"));
    }
    if (token.special) data.special_ids.insert(id);
    if (!IsOrdinaryText(token) && !data.byte_tokens.contains(id)) data.control_ids.insert(id);
    (token.normalized ? normalized : raw).push_back(token);
    if (!token.normalized) continue;
    normalized.back().content = data.normalizer.Apply(TaggedText(token.content, TextOrigin::kModel)).text();
    if (normalized.back().content.empty()) normalized.pop_back();
  }
  data.control_ids.insert(data.special_ids.begin(), data.special_ids.end());
  data.raw_tokens = AddedTokenMatcher(std::move(raw));
  data.normalized_tokens = AddedTokenMatcher(std::move(normalized));
  return absl::OkStatus();
}

}  // namespace tokenferry

#include "runtime/text/tokenizer_json.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "core/check.h"

namespace tokenferry {
namespace {

constexpr size_t kMaxJsonBytes = size_t{128} << 20;
constexpr int64_t kMaxTokenId = (int64_t{1} << 24) - 1;

}  // namespace

std::string Shown(absl::string_view text) {
  constexpr size_t kMaxShown = 48;
  bool cut = text.size() > kMaxShown;
  return absl::StrCat("'", absl::Utf8SafeCHexEscape(text.substr(0, kMaxShown)), cut ? "...'" : "'");
}

absl::Status JsonNode::Error(absl::string_view what) const {
  return absl::InvalidArgumentError(absl::StrCat(path_, ": ", what));
}

absl::Status JsonNode::NotSupported(absl::string_view what) const {
  return absl::UnimplementedError(absl::StrCat(path_, ": ", what));
}

absl::StatusOr<std::optional<JsonNode>> JsonNode::Optional(absl::string_view key) const {
  if (!value_->is_object()) return Error("must be an object");
  auto it = value_->find(std::string(key));
  if (it == value_->end() || it->is_null()) return std::nullopt;
  bool is_root = path_.find(": ") == std::string::npos;
  return std::make_optional<JsonNode>(&*it, absl::StrCat(path_, is_root ? ": " : ".", key));
}

absl::StatusOr<JsonNode> JsonNode::Child(absl::string_view key) const {
  TF_ASSIGN_OR_RETURN(std::optional<JsonNode> child, Optional(key));
  if (!child) return Error(absl::StrCat("lacks \"", key, "\""));
  return *std::move(child);
}

absl::StatusOr<std::vector<JsonNode>> JsonNode::Elements() const {
  if (!value_->is_array()) return Error("must be an array");
  std::vector<JsonNode> elements;
  elements.reserve(value_->size());
  for (const nlohmann::json& element : *value_) {
    elements.emplace_back(&element, absl::StrCat(path_, "[", elements.size(), "]"));
  }
  return elements;
}

absl::StatusOr<std::string> JsonNode::String() const {
  const auto* text = value_->get_ptr<const std::string*>();
  if (text == nullptr) return Error("must be a string");
  return *text;
}

absl::StatusOr<bool> JsonNode::Bool() const {
  const auto* flag = value_->get_ptr<const bool*>();
  if (flag == nullptr) return Error("must be true or false");
  return *flag;
}

absl::StatusOr<int32_t> JsonNode::TokenId() const {
  // The parser stores integers >= 0 as unsigned, and what exceeds 64 bits as floating point.
  const auto* id = value_->get_ptr<const uint64_t*>();
  if (id == nullptr || *id > kMaxTokenId) return Error(absl::StrCat("must be a token id, 0 to ", kMaxTokenId));
  return static_cast<int32_t>(*id);
}

absl::StatusOr<std::string> JsonNode::StringOr(absl::string_view key, absl::string_view fallback) const {
  TF_ASSIGN_OR_RETURN(std::optional<JsonNode> child, Optional(key));
  if (!child) return std::string(fallback);
  return child->String();
}

absl::StatusOr<bool> JsonNode::BoolOr(absl::string_view key, bool fallback) const {
  TF_ASSIGN_OR_RETURN(std::optional<JsonNode> child, Optional(key));
  if (!child) return fallback;
  return child->Bool();
}

absl::StatusOr<std::unique_ptr<nlohmann::json>> ParseJson(absl::string_view text, absl::string_view name) {
  if (text.size() > kMaxJsonBytes) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": ", text.size(), " bytes; at most ", kMaxJsonBytes));
  }
  try {
    return std::make_unique<nlohmann::json>(nlohmann::json::parse(text.begin(), text.end()));
  } catch (const nlohmann::json::parse_error& error) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": not valid JSON at byte ", error.byte));
  } catch (const nlohmann::json::out_of_range& error) {  // a number beyond what a double holds
    return absl::InvalidArgumentError(absl::StrCat(name, ": not valid JSON: a number is out of range"));
  }
}

absl::StatusOr<std::string> ReadJsonFile(const std::string& path) {
  std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (file == nullptr) {
    std::string message = absl::StrCat(path, ": ", std::strerror(errno));
    return errno == ENOENT ? absl::NotFoundError(message) : absl::FailedPreconditionError(message);
  }
  std::string text;
  char buffer[1 << 16];
  while (size_t n = std::fread(buffer, 1, sizeof(buffer), file.get())) {
    text.append(buffer, n);
    if (text.size() > kMaxJsonBytes) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": more than ", kMaxJsonBytes, " bytes"));
    }
  }
  if (std::ferror(file.get())) return absl::DataLossError(absl::StrCat(path, ": ", std::strerror(errno)));
  return text;
}

}  // namespace tokenferry

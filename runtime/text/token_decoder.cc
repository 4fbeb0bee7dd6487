#include "runtime/text/token_decoder.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_replace.h"
#include "runtime/text/byte_alphabet.h"
#include "runtime/text/pretokenizer_load.h"
#include "runtime/text/unicode.h"

namespace tokenferry {
namespace {

class DecoderLoader {
 public:
  absl::Status Add(const JsonNode& node, int depth) {
    TF_ASSIGN_OR_RETURN(JsonNode type_node, node.Child("type"));
    TF_ASSIGN_OR_RETURN(std::string type, type_node.String());
    if (type == "Sequence") {
      if (depth == kMaxSequenceDepth) return node.NotSupported("Sequences nested this deep");
      TF_ASSIGN_OR_RETURN(JsonNode list, node.Child("decoders"));
      TF_ASSIGN_OR_RETURN(std::vector<JsonNode> members, list.Elements());
      for (const JsonNode& member : members) TF_RETURN_IF_ERROR(Add(member, depth + 1));
      return absl::OkStatus();
    }
    ++num_parts_;
    if (type == "ByteLevel" || type == "Metaspace") {
      if (num_parts_ > 1) return type_node.NotSupported(absl::StrCat("decoder ", Shown(type), " behind another one"));
      stage_ = Stage::kWhole;
      if (type == "Metaspace") return AddMetaspace(node);
      result_.bytes = BytesOfTokens::kByteLevel;
      return absl::OkStatus();
    }
    if (type == "Replace" && stage_ == Stage::kTokens) return AddReplace(node);
    if (type == "ByteFallback" && stage_ == Stage::kTokens) {
      stage_ = Stage::kBytes;
      result_.bytes = BytesOfTokens::kByteFallback;
      return absl::OkStatus();
    }
    if (type == "Fuse" && stage_ <= Stage::kBytes) {
      stage_ = Stage::kFused;
      return absl::OkStatus();
    }
    if (type == "Strip" && stage_ == Stage::kFused) {
      stage_ = Stage::kWhole;
      return AddStrip(node);
    }
    return type_node.NotSupported(absl::StrCat("decoder ", Shown(type), num_parts_ > 1 ? " at this place" : ""));
  }

  TokenDecoder Take() { return std::move(result_); }

  DecoderLoader() { result_.bytes = BytesOfTokens::kNone; }

 private:
  enum class Stage : uint8_t { kTokens, kBytes, kFused, kWhole };  // how far the parts have come

  absl::Status AddReplace(const JsonNode& node) {
    TF_ASSIGN_OR_RETURN(JsonNode pattern, node.Child("pattern"));
    TF_ASSIGN_OR_RETURN(JsonNode literal, pattern.Child("String"));
    TF_ASSIGN_OR_RETURN(std::string old_text, literal.String());
    if (old_text.empty()) return literal.Error("must not be empty");
    TF_ASSIGN_OR_RETURN(JsonNode content, node.Child("content"));
    TF_ASSIGN_OR_RETURN(std::string new_text, content.String());
    result_.replacements.emplace_back(std::move(old_text), std::move(new_text));
    return absl::OkStatus();
  }
  absl::Status AddMetaspace(const JsonNode& node) {
    TF_ASSIGN_OR_RETURN(std::string mark, node.StringOr("replacement", "\u2581"));
    if (mark.empty()) return node.NotSupported("an empty replacement");
    result_.replacements.emplace_back(std::move(mark), " ");
    TF_ASSIGN_OR_RETURN(const bool add_prefix, node.BoolOr("add_prefix_space", true));
    TF_ASSIGN_OR_RETURN(std::string scheme, node.StringOr("prepend_scheme", add_prefix ? "always" : "never"));
    result_.drops_first_mark = scheme != "never";
    return absl::OkStatus();
  }
  absl::Status AddStrip(const JsonNode& node) {
    TF_ASSIGN_OR_RETURN(JsonNode content_node, node.Child("content"));
    TF_ASSIGN_OR_RETURN(std::string content, content_node.String());
    size_t end = 0;
    if (!content.empty()) result_.strip_character = DecodeUtf8(content, end);
    if (content.empty() || end != content.size()) return content_node.Error("must be one character");
    constexpr int64_t kMaxStrip = 1 << 20;
    TF_ASSIGN_OR_RETURN(JsonNode start, node.Child("start"));
    TF_ASSIGN_OR_RETURN(result_.num_strip, start.Int(0, kMaxStrip));
    TF_ASSIGN_OR_RETURN(JsonNode stop, node.Child("stop"));
    TF_ASSIGN_OR_RETURN(const int64_t num_at_end, stop.Int(0, kMaxStrip));
    return num_at_end == 0 ? absl::OkStatus() : stop.NotSupported("stripping the end");
  }

  TokenDecoder result_;
  Stage stage_ = Stage::kTokens;
  int num_parts_ = 0;
};

}  // namespace

int FallbackByte(absl::string_view token) {
  const bool is_byte = token.size() == 6 && absl::StartsWith(token, "<0x") && token[5] == '>' &&
                       absl::ascii_isxdigit(static_cast<unsigned char>(token[3])) &&
                       absl::ascii_isxdigit(static_cast<unsigned char>(token[4]));
  int byte = 0;
  return is_byte && absl::SimpleHexAtoi(token.substr(3, 2), &byte) ? byte : -1;
}

std::string TokenDecoder::TokenText(absl::string_view token) const {
  if (bytes == BytesOfTokens::kByteLevel) return ByteAlphabet::Get().Decode(token).value_or(std::string(token));
  std::string text(token);
  for (const auto& [old_text, new_text] : replacements) text = absl::StrReplaceAll(text, {{old_text, new_text}});
  return text;
}

absl::StatusOr<TokenDecoder> LoadTokenDecoder(const JsonNode& root) {
  TF_ASSIGN_OR_RETURN(std::optional<JsonNode> node, root.Optional("decoder"));
  if (!node) return root.NotSupported("no decoder");
  DecoderLoader loader;
  TF_RETURN_IF_ERROR(loader.Add(*node, 0));
  return loader.Take();
}

}  // namespace tokenferry

#include "runtime/text/tiktoken_load.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/io/foreign_text.h"
#include "core/io/range_file.h"
#include "runtime/text/unicode.h"

namespace tokenferry {
namespace {

constexpr int64_t kMaxBytes = int64_t{128} << 20;
constexpr int32_t kMaxTokens = 1 << 24;
constexpr size_t kMaxTokenBytes = 1024;

constexpr int32_t kNumReserved = 256;

absl::Status ReadRanks(const std::string& path, absl::flat_hash_map<std::string, int32_t>& ranks) {
  TF_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxBytes));
  TF_RETURN_IF_ERROR(CheckNotForeign(path, text));
  int64_t line_number = 0;
  std::vector<bool> seen;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    ++line_number;
    if (line.empty()) continue;
    const auto error = [&](absl::string_view what) {
      return absl::InvalidArgumentError(absl::StrCat(path, ":", line_number, ": ", what));
    };
    const std::vector<absl::string_view> parts = absl::StrSplit(line, ' ');
    std::string token;
    int32_t rank = -1;
    if (parts.size() != 2 || !absl::Base64Unescape(parts[0], &token) || token.empty() ||
        !absl::SimpleAtoi(parts[1], &rank)) {
      return error("must be a token in base64 and its rank");
    }
    if (token.size() > kMaxTokenBytes) {  // AddMerges cuts it everywhere
      return error(absl::StrCat("a token of ", token.size(), " bytes; at most ", kMaxTokenBytes, " are allowed"));
    }
    if (rank < 0 || rank >= kMaxTokens) return error(absl::StrCat("rank ", rank, " is out of range"));
    if (static_cast<size_t>(rank) >= seen.size()) seen.resize(static_cast<size_t>(rank) + 1);
    if (seen[static_cast<size_t>(rank)]) return error(absl::StrCat("rank ", rank, " is given twice"));
    seen[static_cast<size_t>(rank)] = true;
    if (!ranks.emplace(std::move(token), rank).second) return error("the token is given twice");
  }
  return absl::OkStatus();
}

// tiktoken merges the neighbours whose joint text has the lowest rank, however they came about: each way to cut a token
// into two tokens is a merge.
void AddMerges(const absl::flat_hash_map<std::string, int32_t>& ranks, BpeModel& bpe) {
  for (const auto& [token, rank] : ranks) {
    for (size_t cut = 1; cut < token.size(); ++cut) {
      const auto left = ranks.find(absl::string_view(token).substr(0, cut));
      if (left == ranks.end()) continue;
      const auto right = ranks.find(absl::string_view(token).substr(cut));
      if (right == ranks.end()) continue;
      bpe.merges[BpeModel::PairKey(left->second, right->second)] = {rank, rank};
    }
  }
}

}  // namespace

absl::StatusOr<VocabIds> LoadTiktoken(const std::string& path, Tokenizer::Data& data) {
  absl::flat_hash_map<std::string, int32_t> ranks;
  TF_RETURN_IF_ERROR(ReadRanks(path, ranks));
  TF_ASSIGN_OR_RETURN(SplitRegex regex, SplitRegex::Compile(kKimiPattern));
  data.pretokenizer.steps.emplace_back(SplitStep{std::move(regex), SplitBehavior::kIsolated, /*invert=*/false});
  data.pretokenizer.is_byte_level = true;
  data.decoder.bytes = BytesOfTokens::kByteLevel;

  BpeModel bpe;
  bpe.ignore_merges = true;
  VocabIds ids;
  for (const auto& [token, id] : ranks) {
    data.token_bytes.emplace(id, token);
    if (IsValidUtf8(token)) ids.emplace(token, id);
  }
  for (int b = 0; b < 256; ++b) {
    const auto it = ranks.find(std::string(1, static_cast<char>(b)));
    if (it == ranks.end()) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": has no token for the byte ", b));
    }
    bpe.byte_ids[static_cast<size_t>(b)] = it->second;
  }
  AddMerges(ranks, bpe);
  bpe.ids = std::move(ranks);
  data.model = std::move(bpe);
  return ids;
}

void AddReservedTokens(const Tokenizer::Data& data, const JsonNode& config, AddedTokens& added) {
  int32_t first = 0;
  for (const auto& [id, bytes] : data.token_bytes) first = std::max(first, id + 1);
  for (int32_t id = first; id < first + kNumReserved; ++id) {
    AddedToken token;
    token.id = id;
    token.content = absl::StrCat("<|reserved_token_", id, "|>");
    token.special = true;
    added.try_emplace(id, std::move(token), config);
  }
}

}  // namespace tokenferry

// Which experts the tokens of a benchmark choose. Every token's choice comes from a hash of (seed, global token index)
// alone: the same for any number of ranks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "bench/alltoall/routing_trace.h"
#include "core/status.h"

namespace tokenferry {

// How --traffic is written, and what each token chooses (K distinct experts of E):
//   uniform       any K, equally likely
//   zipf:S        one after the other without replacement, expert of popularity rank i with weight 1 / (i + 1)^S; which
//                 expert has which rank is drawn once
//   hot:N         first one of N hot experts, then K - 1 of all others, equally likely
//   grouped       DeepSeek-V3's node-limited choice on normal scores: of 8 groups of experts the 4 with the largest sum
//                 of their two best, of those the K best. grouped:G:M for M of G groups
//   silent-rank   uniform, and the last of two or more ranks has no tokens
//   trace:FILE    rows of a recorded routing, all steps and layers one after the other, over and over
struct TrafficSpec {
  enum class Kind : uint8_t { kUniform, kZipf, kHot, kGrouped, kSilentRank, kTrace };
  Kind kind = Kind::kUniform;
  double exponent = 0;                  // kZipf
  int num_hot = 0;                      // kHot
  int num_groups = 8, groups_kept = 4;  // kGrouped
  std::string file;                     // kTrace
  std::string text = "uniform";         // as written
};
// InvalidArgument naming what can be written.
absl::StatusOr<TrafficSpec> ParseTraffic(absl::string_view text);

struct TrafficShape {
  int num_experts = 0;
  int top_k = 0;
  uint64_t seed = 1;
};

// InvalidArgument when such traffic cannot have this shape. `trace` is for kTrace, else null.
absl::Status CheckTraffic(const TrafficSpec& spec, const TrafficShape& shape, const RoutingTrace* trace);

// The routing of `num_tokens` tokens from `first_token` on: expert_idx [T, K], -1 = none (in traces only); weight
// [T, K], positive, of sum 1 over a token's choices, 0 where there is none. CheckTraffic must have passed.
struct HostTraffic {
  std::vector<int32_t> expert_idx;
  std::vector<float> weight;
};
HostTraffic MakeTraffic(const TrafficSpec& spec, const TrafficShape& shape, const RoutingTrace* trace,
                        int64_t first_token, int64_t num_tokens);

// Tokens of a rank when every rank is asked to have `tokens`; rank r's first token is r * tokens.
int64_t TokensOfRank(const TrafficSpec& spec, int64_t tokens, int rank, int num_ranks);

}  // namespace tokenferry

// An exchange over a whole group against a dense reference that knows no ranks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/exchange/exchange.h"
#include "comm/transport/topology.h"
#include "core/device/cpu_device.h"
#include "core/formats/dtype.h"
#include "core/moe/placement.h"

namespace tokenferry {

// Every path of comm/exchange/path/paths.h.
inline std::vector<ExchangePath> AllPaths() {
  std::vector<ExchangePath> paths;
  for (const PathInfo* info : kExchangePaths) paths.push_back(info->path);
  return paths;
}

// The whole problem, the same on every rank.
struct ExchangeCase {
  uint32_t seed = 0;
  int num_experts = 0;
  int top_k = 0;
  int64_t hidden = 0;
  DType wire_dtype = DType::kF32, expert_dtype = DType::kF32, output_dtype = DType::kF32;  // see ExchangeOptions
  std::vector<float> rows;                                                                 // [N, H]
  std::vector<int32_t> expert_idx;                                                         // [N, K]
  std::vector<float> weight;                                                               // [N, K]
  int64_t num_tokens() const { return top_k == 0 ? 0 : static_cast<int64_t>(expert_idx.size()) / top_k; }
  std::string ToString() const;
};
ExchangeCase RandomCase(uint32_t seed, int num_tokens, int num_experts, int top_k, int64_t hidden, DType wire_dtype);

// Output [N, H]: every token alone, experts in increasing order.
std::vector<float> DenseReference(const ExchangeCase& c);

// The same with Reduction::kNode: a token's experts of one host are summed first, then the hosts' sums.
std::vector<float> NodeReference(const ExchangeCase& c, const Placement& placement, const Topology& topology,
                                 const std::vector<int64_t>& token_offsets);

// Which rank owns which tokens: [R + 1], random, with empty ranks; and experts on random ranks, some of them twice.
std::vector<int64_t> RandomTokenSplit(uint32_t seed, int64_t num_tokens, int num_ranks);
Placement RandomPlacement(uint32_t seed, int num_experts, int num_ranks);

// This rank's part, `num_rounds` times over one Exchange: its outputs must be the reference's bit for bit.
enum class Formats { kFloats, kAll };  // kAll: quantised rows and rounded outputs too
struct ExchangeRun {
  CpuDeviceOptions device;
  Device* on = nullptr;  // instead of a device made as `device` says
  int num_rounds = 1;
  Formats formats = Formats::kFloats;
  ExchangePath path = ExchangePath::kAllToAllV;
  Reduction reduction = Reduction::kExact;
  bool tells_experts = false;  // Transport::EnterPhase "experts" before they run
  // What device memory is allocated for in advance, where a path asks for that: ExchangeOptions'.
  int64_t max_tokens = 0;
  int max_top_k = 0;
  Exchange::MakePath make_path = nullptr;  // instead of what `path` says
};
void RunExchangeCase(Transport& transport, const ExchangeCase& c, const Placement& placement,
                     const std::vector<int64_t>& token_offsets, const ExchangeRun& run);

// The most tokens and the largest top-k of the cases of these two lists.
inline constexpr int64_t kMostCaseTokens = 59;
inline constexpr int kMostCaseTopK = 8;
// A list of cases over shapes, splits and placements, all made from `seed`; `run` as above.
void RunRandomCases(Transport& transport, uint32_t seed, int num_cases, const ExchangeRun& run);

// One Exchange over a list of cases that differ in tokens, top-k, splits, placements and data.
void RunChangingCases(Transport& transport, uint32_t seed, int num_cases, const ExchangeRun& run);

// This rank's part of one exchange with hidden size 8, in which every rank sends to every rank; site: layer 2, step 5.
absl::Status RunOneCase(Transport& transport, ExchangePath path);
absl::Status RunOneCase(Transport& transport, ExchangePath path, Device& device);

}  // namespace tokenferry

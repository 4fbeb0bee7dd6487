// Who chooses the experts in bench moe: the router that models have, or one of experts/router/study_routers.h.
#pragma once

#include <memory>

#include "bench/moe/random_weights.h"

namespace tokenferry {

enum class BenchRouterKind : uint8_t { kTopK, kNoisyTopK, kExpertChoice, kHash };
const char* BenchRouterName(BenchRouterKind kind);

// InvalidArgument or Unimplemented, naming flag and values, when a router of this kind cannot give tokens `top_k`
// experts on this kind of device.
absl::Status CheckBenchRouter(BenchRouterKind kind, int top_k, DeviceKind device);

// Columns of the routing when tokens have `top_k` experts; expert choice: on average, and one may have all of them.
int RoutingColumns(BenchRouterKind kind, int top_k, int num_experts);

class BenchRouter {
 public:
  // `layer` and `random` must outlive it; random.shape.router.top_k is RoutingColumns of `top_k`.
  static absl::StatusOr<BenchRouter> Create(const BenchContext& context, MoeLayer& layer, const RandomLayer& random,
                                            BenchRouterKind kind, int top_k);
  // In place of MoeLayer::Route, with the same results in `step`.
  absl::Status Route(Stream& stream, MoeStep& step);

 private:
  BenchRouter(MoeLayer& layer, const RandomLayer& random, BenchRouterKind kind, int top_k)
      : layer_(&layer), random_(&random), kind_(kind), top_k_(top_k) {}

  MoeLayer* layer_;
  const RandomLayer* random_;
  BenchRouterKind kind_;
  int top_k_;
  int64_t first_token_ = 0;                     // of this rank, among those of all
  Buffer logits_, expert_idx_, expert_weight_;  // [T, E], [T, K] twice
  Buffer bad_tokens_;                           // [T] uint8
  Buffer noise_weights_, noise_logits_;         // [E, H], [T, E]; noisy top-k
  Buffer ids_, table_;                          // [T], [kVocabulary]; hash
};

}  // namespace tokenferry

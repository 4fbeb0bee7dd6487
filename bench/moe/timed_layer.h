// The MoE layer that models run (runtime/engine/moe_layer.h) on random weights and tokens, timed call by call.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "bench/measure/stream_timer.h"
#include "bench/moe/bench_router.h"
#include "bench/moe/random_weights.h"

namespace tokenferry {

// This rank's seconds in each call, its work on the device included.
struct MoeSeconds {
  double route = 0, plan = 0, dispatch = 0, experts = 0, combine = 0;
  double layer() const { return route + plan + dispatch + experts + combine; }
};

class TimedLayer {
 public:
  // `context`, `layer` and `random` must outlive it. Every rank has random.shape.max_tokens tokens, for which `router`
  // chooses `top_k` experts each.
  static absl::StatusOr<std::unique_ptr<TimedLayer>> Create(const BenchContext& context, MoeLayer& layer,
                                                            const RandomLayer& random, BenchRouterKind router,
                                                            int top_k);
  // Collective. DataLoss when the results are not the first run's.
  absl::StatusOr<MoeSeconds> Run();
  // Collective. A run, and the first token's result against its experts run one by one.
  absl::Status Verify();
  // Choices of this rank's tokens in the last run, [T, K]; -1: none.
  const std::vector<int32_t>& expert_idx() const { return host_expert_idx_; }

 private:
  TimedLayer(const BenchContext& context, MoeLayer& layer, const RandomLayer& random)
      : context_(context), layer_(layer), random_(random) {}
  absl::Status Allocate();
  absl::StatusOr<MoeSeconds> TimeCalls();
  absl::Status CheckFirstToken();

  const BenchContext& context_;
  MoeLayer& layer_;
  const RandomLayer& random_;
  std::optional<BenchRouter> router_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<StreamTimer> timer_;
  Buffer x_, out_;
  MoeStep step_;
  std::vector<int32_t> host_expert_idx_;
  std::vector<float> first_results_;
};

}  // namespace tokenferry

// One rank's part of a MoE layer with random weights, as bench moe runs it.
#pragma once

#include <memory>
#include <vector>

#include "bench/moe/moe_bench.h"
#include "core/moe/placement.h"
#include "experts/ffn/expert_ffn.h"

namespace tokenferry {

// This rank's seconds in each phase.
struct MoeSeconds {
  double route = 0, plan = 0, dispatch = 0, experts = 0, combine = 0;
  double layer() const { return route + plan + dispatch + experts + combine; }
};

// Random weights of one expert; the same wherever they are made.
class RandomExpert {
 public:
  static absl::StatusOr<RandomExpert> Create(Stream& stream, const MoeShape& shape, int expert);
  const ExpertWeights& weights() const { return weights_; }
  static int64_t NumBytes(const MoeShape& shape);  // of the three matrices

 private:
  ExpertWeights weights_;
  Buffer memory_[3], scales_;
};

// Weights and router; shared by all paths and numbers of tokens.
class MoeLayerWeights {
 public:
  static absl::StatusOr<std::unique_ptr<MoeLayerWeights>> Create(const BenchContext& context, const MoeShape& shape);

  MoeShape shape;
  Placement placement = Placement::Linear(1, 1);
  std::vector<RandomExpert> experts;  // by slot
  WeightArray gate, up, down;         // [slots]
  WeightView router;                  // [E, H] f32

 private:
  Buffer views_, router_memory_;
};

class MoeLayerRun {
 public:
  static absl::StatusOr<std::unique_ptr<MoeLayerRun>> Create(const BenchContext& context,
                                                             const MoeLayerWeights& weights, Exchange& exchange,
                                                             int64_t num_tokens, Compute compute);
  // Collective. DataLoss when the results are not the first run's.
  absl::StatusOr<MoeSeconds> Run();
  // Collective. The first token's result against its experts run one by one.
  absl::Status Verify();
  // Choices of this rank's tokens in the last run, [T, K].
  const std::vector<int32_t>& expert_idx() const { return host_expert_idx_; }

 private:
  MoeLayerRun(const BenchContext& context, const MoeLayerWeights& weights, Exchange& exchange, Compute compute)
      : context_(context), weights_(weights), exchange_(exchange), compute_(compute) {}
  absl::Status Allocate(int64_t num_tokens);
  void Route();
  absl::Status RunExperts(const ExpertRows& rows, FloatMatrix out);
  absl::Status CheckFirstToken();

  const BenchContext& context_;
  const MoeLayerWeights& weights_;
  Exchange& exchange_;
  const Compute compute_;
  std::unique_ptr<Stream> stream_;
  Routing routing_;
  MatrixView<float> hidden_, out_, logits_;
  Buffer memory_, scratch_;
  std::vector<int32_t> host_expert_idx_;
  std::vector<float> first_results_;
};

}  // namespace tokenferry

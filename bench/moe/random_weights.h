// Random weights of a MoE layer: the same wherever and whenever they are made.
#pragma once

#include <memory>
#include <vector>

#include "bench/alltoall/alltoall_bench.h"
#include "core/moe/placement.h"
#include "experts/ffn/expert_ffn.h"
#include "runtime/engine/moe_layer.h"

namespace tokenferry {

// Elements [first, first + size) of an endless row of numbers in [-1, 1), one for each `stream`.
std::vector<float> RandomFloats(int64_t size, uint64_t stream, int64_t first);

// `num_bytes` of `data` in new device memory, once the stream is synchronized.
absl::StatusOr<Buffer> UploadNew(Stream& stream, const void* data, size_t num_bytes, const char* label);

// One expert of a layer of `shape`. Weights of kBF16, kF32 or kF8E4M3, which has a scale for each block of 128 x 128.
class RandomExpert {
 public:
  static absl::StatusOr<RandomExpert> Create(Stream& stream, const MoeShape& shape, DType dtype, int expert);
  const ExpertWeights& weights() const { return weights_; }
  static int64_t NumBytes(const MoeShape& shape, DType dtype);  // of the three matrices

 private:
  ExpertWeights weights_;
  Buffer memory_[3], scales_;
};

// What a rank has of a layer: the router, and the experts of its slots in a linear placement.
struct RandomLayer {
  static absl::StatusOr<std::unique_ptr<RandomLayer>> Create(const BenchContext& context, const MoeShape& shape,
                                                             DType dtype);

  MoeShape shape;
  DType dtype;
  Placement placement;
  std::vector<RandomExpert> experts;  // by slot
  MoeLayerWeights weights;
  Buffer views, router;  // of `weights`
};

}  // namespace tokenferry

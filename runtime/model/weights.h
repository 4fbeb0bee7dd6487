// The weights of one rank in device memory, in the precision of the checkpoint.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "core/device/cpu_device.h"
#include "core/device/device.h"
#include "core/formats/weight_format.h"
#include "core/moe/placement.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/model/tensor_plan.h"

namespace tokenferry {

// The tensors of a layer, or those of no layer, by what they are for. A vector [size] is a matrix of one row. data
// null: there is none.
class RoleViews {
 public:
  const WeightView& operator[](Role role) const { return views_[static_cast<size_t>(role)]; }
  WeightView& operator[](Role role) { return views_[static_cast<size_t>(role)]; }
  // Of a vector that memory holds in F32 (Storage::kF32).
  const float* vector(Role role) const { return static_cast<const float*>((*this)[role].data); }

 private:
  std::array<WeightView, kNumRoles> views_;
};

// One matrix of all routed experts of this rank. Both arrays are by local slot, [num_local_slots]. On a GPU all have
// one format.
struct ExpertMatrices {
  std::vector<WeightView> host;
  const WeightView* device = nullptr;  // the same values in device memory

  WeightArray array() const { return {host.empty() ? WeightView() : host.front(), device}; }
};

struct LayerWeights : RoleViews {
  // Of a MoE layer; the views of these roles stay empty. Biases are matrices of one row; most models have none.
  ExpertMatrices expert_gate, expert_up, expert_down, expert_gate_bias, expert_up_bias, expert_down_bias;
};

struct LoadStats {
  int64_t num_tensors = 0;
  int64_t bytes_read = 0;    // from the checkpoint's data, headers not included
  int64_t bytes_kept = 0;    // of weights and scales in device memory
  int64_t buffer_bytes = 0;  // the same with alignment
  // Beside them while they are loaded: of one expert as it is stored, with alignment. On a GPU 0: that is the host's.
  int64_t conversion_bytes = 0;
};

// Move-only. All pointers are device memory of `buffers`; the device must outlive it.
struct ModelWeights {
  RoleViews ends;                    // embedding, last norm, head; a tied head is the embedding's view
  std::vector<LayerWeights> layers;  // by layer
  LoadStats stats;
  std::vector<Buffer> buffers;  // a few per layer
};

struct LoadOptions {
  const Placement* placement = nullptr;  // which experts; the same for all layers. Required
  RankId rank{0};
  int64_t staging_bytes = int64_t{8} << 20;  // host memory in use besides the weights; a multiple of 4
  CpuDeviceOptions converter;                // where experts are converted (SetExpertDtype) that a GPU will hold
  // May be empty. Called from the same thread, the last time with bytes_done == bytes_total; an error ends the loading.
  std::function<absl::Status(int64_t bytes_done, int64_t bytes_total)> progress;
};

// Reads what `options.rank` needs and nothing else. `plan` comes from CheckCheckpoint of the same checkpoint.
// Everything has arrived when this returns. DataLoss, naming file, tensor and element, for a NaN or an infinity among
// the weights (found while they pass; small tensors and scales come first); also when a file ends early.
absl::StatusOr<ModelWeights> LoadWeights(const Checkpoint& checkpoint, const TensorPlan& plan, Stream& stream,
                                         const LoadOptions& options);

}  // namespace tokenferry

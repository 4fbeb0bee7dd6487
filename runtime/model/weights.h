// The weights of one rank in device memory, in the precision of the checkpoint.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/device/device.h"
#include "core/formats/weight_format.h"
#include "core/moe/placement.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/model/tensor_plan.h"

namespace tokenferry {

// Scale of a root-mean-square norm. Device memory [size].
struct NormWeight {
  const void* data = nullptr;
  DType dtype = DType::kF32;  // kF32 or kBF16
  int64_t size = 0;
};

// A gated feed-forward network: down(silu(gate(x)) * up(x)). gate, up [I, H]; down [H, I]. data null: there is none.
struct FfnWeights {
  WeightView gate, up, down;
};

// Shapes: tensor_plan.h's WeightKind. Either q_proj, or q_a_proj, q_a_layernorm and q_b_proj (q_proj.data is null).
struct AttentionWeights {
  WeightView q_proj;
  WeightView q_a_proj, q_b_proj;
  NormWeight q_a_layernorm;
  WeightView kv_a_proj_with_mqa;
  NormWeight kv_a_layernorm;
  WeightView kv_b_proj;
  WeightView o_proj;
};

// One matrix of all routed experts of this rank. Both arrays are by local slot, [num_local_slots]. On a GPU all have
// one format.
struct ExpertMatrices {
  std::vector<WeightView> host;
  const WeightView* device = nullptr;  // the same values in device memory

  WeightArray array() const { return {host.empty() ? WeightView() : host.front(), device}; }
};

struct MoeWeights {
  WeightView router;                               // [E, H]
  const float* e_score_correction_bias = nullptr;  // [E]
  FfnWeights shared;                               // all shared experts as one network
  ExpertMatrices gate, up, down;
};

struct LayerWeights {
  NormWeight input_layernorm;
  AttentionWeights attention;
  NormWeight post_attention_layernorm;
  bool is_moe = false;
  FfnWeights dense;  // if not is_moe
  MoeWeights moe;    // if is_moe
};

struct LoadStats {
  int64_t num_tensors = 0;
  int64_t bytes_read = 0;    // from the checkpoint's data, headers not included
  int64_t bytes_kept = 0;    // of weights and scales in device memory
  int64_t buffer_bytes = 0;  // the same with alignment
};

// Move-only. All pointers are device memory of `buffers`; the device must outlive it.
struct ModelWeights {
  WeightView embed_tokens;           // [V, H]
  std::vector<LayerWeights> layers;  // [num_hidden_layers]
  NormWeight norm;                   // before lm_head
  WeightView lm_head;                // [V, H]; embed_tokens when tied
  LoadStats stats;
  std::vector<Buffer> buffers;  // a few per layer
};

struct LoadOptions {
  const Placement* placement = nullptr;  // which experts; the same for all layers. Required
  RankId rank{0};
  int64_t staging_bytes = int64_t{8} << 20;  // host memory in use besides the weights; a multiple of 4
  // May be empty. Called from the same thread, the last time with bytes_done == bytes_total; an error ends the loading.
  std::function<absl::Status(int64_t bytes_done, int64_t bytes_total)> progress;
};

// Reads what `options.rank` needs and nothing else. `plan` comes from CheckCheckpoint of the same checkpoint.
// Everything has arrived when this returns. DataLoss, naming file, tensor and element, for a NaN or an infinity among
// the weights (found while they pass; small tensors and scales come first); also when a file ends early.
absl::StatusOr<ModelWeights> LoadWeights(const Checkpoint& checkpoint, const TensorPlan& plan, Stream& stream,
                                         const LoadOptions& options);

}  // namespace tokenferry

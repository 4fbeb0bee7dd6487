// What the layers of a step hold, copied to the host for the sequences that want it (StepEntry::trace).
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "core/device/device.h"
#include "core/formats/tensor.h"
#include "runtime/engine/step_plan.h"
#include "runtime/engine/transformer.h"
#include "runtime/model/model_spec.h"

namespace tokenferry {

// Of one step of one rank. The copies go straight into `results`, which must stay where they are until the stream that
// was passed has been synchronized.
class StepTrace {
 public:
  // `mine` are this rank's entries in the order of rows, and `results` theirs.
  StepTrace(const ModelSpec& model, const std::vector<const StepEntry*>& mine, std::vector<EntryResult>& results);

  // Sets what the layers' hidden states and selected keys go to, where somebody wants them. Both must outlive the step.
  void Observe(Stream& stream, LayerObserver& observer) const;

  // Rows [first_token, ..) of the step, device memory: hidden [n, H] that layer `layer` is given, or, as that of layer
  // L, what the last one has made; router_logits [n, E] of MoE layer `moe_idx`.
  void TakeHidden(Stream& stream, int layer, int64_t first_token, MatrixView<const float> hidden) const;
  // Keys [n, K] of layer `layer`, one with an indexer's selection.
  void TakeSelected(Stream& stream, int layer, int64_t first_token, MatrixView<const int32_t> selected) const;
  void TakeRouterLogits(Stream& stream, int moe_idx, int64_t first_token, MatrixView<const float> router_logits) const;

 private:
  struct Entry {
    int64_t begin = 0, end = 0;  // rows of the step
    float* hidden_states = nullptr;
    float* router_logits = nullptr;
    int32_t* selected_keys = nullptr;
  };
  template <class T>
  void Take(Stream& stream, T* Entry::*dst, int64_t matrix_idx, int64_t first_token, MatrixView<const T> rows) const;

  std::vector<Entry> entries_;  // those that want it
};

}  // namespace tokenferry

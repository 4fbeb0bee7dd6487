// The experts of one rank as one network: from rows that are grouped by slot to outputs in the same order.
#pragma once

#include <cstdint>
#include <memory>

#include "core/device/growing_buffer.h"
#include "core/formats/weight_format.h"
#include "core/moe/gated_activation.h"
#include "core/moe/moe_types.h"
#include "core/status.h"
#include "runtime/engine/overflow_stage.h"

namespace tokenferry {

// The matrices of a layer's experts on this rank, by local slot. gate, up [I, H]; down [H, I].
struct ExpertArrays {
  WeightArray gate, up, down;
  WeightArray gate_bias, up_bias, down_bias;  // [1, I], [1, I], [1, H] F32; views null: there are none
};

class ExpertNetwork {
 public:
  virtual ~ExpertNetwork() = default;

  // out [rows.max_selections, hidden], contiguous device memory; every selection's output depends on its row alone.
  // Work is enqueued on the stream. ResourceExhausted when there is no memory for what lies between.
  virtual absl::Status Run(Stream& stream, const ExpertArrays& experts, const ExpertRows& rows, FloatMatrix out) = 0;

  // The memory that Run needs for rows of this shape, of which nothing is read, or fewer: Run then allocates nothing.
  virtual absl::Status Reserve(const ExpertRows& rows, DType out_dtype) = 0;
};

// The gated feed-forward network of experts/ffn/expert_ffn.h.
class GatedExperts final : public ExpertNetwork {
 public:
  // `device` must outlive it. `intermediate`: I.
  GatedExperts(Device& device, int64_t num_slots, int64_t intermediate, const GatedActivation& activation,
               Compute compute)
      : device_(device),
        num_slots_(num_slots),
        intermediate_(intermediate),
        activation_(activation),
        compute_(compute) {}

  absl::Status Run(Stream& stream, const ExpertArrays& experts, const ExpertRows& rows, FloatMatrix out) override;
  absl::Status Reserve(const ExpertRows& rows, DType out_dtype) override;
  static int64_t ScratchBytes(int64_t max_selections, int64_t intermediate) {
    return max_selections * 2 * intermediate * static_cast<int64_t>(sizeof(float));
  }

 private:
  Device& device_;
  const int64_t num_slots_, intermediate_;
  const GatedActivation activation_;
  const Compute compute_;
  GrowingBuffer scratch_{MemoryKind::kDevice, "expert scratch"};
};

// Another network over static shapes: every slot computes as many rows as its capacity, zeros where fewer arrived, so
// that the shapes of all launches depend on the number of tokens alone.
class PaddedExperts final : public ExpertNetwork {
 public:
  // `device` and `overflow`, which knows each step's capacity, must outlive it.
  PaddedExperts(Device& device, int64_t num_slots, const OverflowStage& overflow,
                std::unique_ptr<ExpertNetwork> network)
      : device_(device), num_slots_(num_slots), overflow_(overflow), network_(std::move(network)) {}

  absl::Status Run(Stream& stream, const ExpertArrays& experts, const ExpertRows& rows, FloatMatrix out) override;
  absl::Status Reserve(const ExpertRows& rows, DType out_dtype) override;

 private:
  absl::Status ReserveFor(int64_t capacity, const ExpertRows& rows, DType out_dtype);
  // What the network is given: so many rows for every slot.
  ExpertRows PaddedRows(int64_t capacity, const ExpertRows& rows) const;

  Device& device_;
  const int64_t num_slots_;
  const OverflowStage& overflow_;
  std::unique_ptr<ExpertNetwork> network_;
  GrowingBuffer rows_{MemoryKind::kDevice, "padded rows"};
  GrowingBuffer row_idx_{MemoryKind::kDevice, "padded rows' indices"};
  GrowingBuffer slot_offsets_{MemoryKind::kDevice, "padded slot offsets"};
  GrowingBuffer out_{MemoryKind::kDevice, "padded expert outputs"};
};

}  // namespace tokenferry

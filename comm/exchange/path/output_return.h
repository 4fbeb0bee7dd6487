// The way home by one message per peer: every selection's expert output travels back to its token's rank, which sums
// them in increasing logical expert index. What paths share that differ only in how rows reach the experts.
#pragma once

#include <vector>

#include "comm/exchange/path/path.h"
#include "core/device/growing_buffer.h"

namespace tokenferry {

class OutputReturn {
 public:
  explicit OutputReturn(const PathContext& context);

  // Exchange::ExpertOut.
  absl::StatusOr<FloatMatrix> ExpertOut(const ExchangePlan& plan);

  // Exchange::BeginCombine and FinishCombine; counts what leaves for each rank.
  absl::Status Begin(Stream& stream, const CallSite& site, const ExchangePlan& plan);
  absl::Status Finish(Stream& stream, const ExchangePlan& plan, MatrixView<const float> weight, MatrixView<float> out);

 private:
  Transport& transport_;
  Device& device_;
  ExchangeStats& stats_;
  const int64_t hidden_;
  const DType output_dtype_;
  const int64_t out_bytes_;  // of an expert output
  GrowingBuffer send_out_, recv_out_;
  GrowingBuffer expert_out_{MemoryKind::kDevice, "exchange: expert outputs"};
  GrowingBuffer return_selection_{MemoryKind::kDevice, "exchange: return order"};
  GrowingBuffer combine_offsets_{MemoryKind::kDevice, "exchange: combine offsets"};
  GrowingBuffer combine_selection_{MemoryKind::kDevice, "exchange: combine order"};
  GrowingBuffer combine_k_{MemoryKind::kDevice, "exchange: combine weights' positions"};
  std::vector<int64_t> send_offsets_, recv_offsets_;  // [R + 1] bytes
  TransferHandle transfer_;                           // between Begin and Finish
};

}  // namespace tokenferry

// Moves stored tensors into device memory. What LoadWeights (runtime/model/weights.h) is made of.
#pragma once

#include "absl/types/span.h"
#include "core/device/device.h"
#include "core/status.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/model/stored_tensor.h"
#include "runtime/model/weights.h"

namespace tokenferry {

// A stored tensor, or this role's part of it, and where it goes.
struct Piece {
  const TensorSpec* spec;
  const StoredTensor* tensor;
  const Checkpoint::Tensor* source;
  int64_t num_bytes;       // in memory
  uint8_t* dst = nullptr;  // null: it is looked at, and not kept

  // Bytes of the stored tensor that are read for it.
  int64_t source_begin() const;
  int64_t source_bytes() const;
  int64_t row_bytes() const;  // of a stored row, where rows must not be cut; else of an element
  bool is_part() const { return tensor->part.kind != StoredPart::Kind::kWhole; }
  bool picks() const { return is_part() && tensor->part.kind != StoredPart::Kind::kRange; }  // rows or columns
  bool reads_the_same(const Piece& other) const {
    return source == other.source && source_begin() == other.source_begin() && source_bytes() == other.source_bytes();
  }
};

// Streams all of them through `staging`, vectors and scales first. DataLoss, naming file, tensor and element: a NaN, an
// infinity, a scale that is 0, groups out of order.
absl::Status LoadPieces(const Checkpoint& checkpoint, Stream& stream, Buffer staging, const LoadOptions& options,
                        absl::Span<const Piece> pieces, LoadStats& stats);

}  // namespace tokenferry

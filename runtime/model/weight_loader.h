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
  uint8_t* dst = nullptr;  // null: it is looked at, and not kept

  // Bytes of the stored tensor that are read for it.
  int64_t source_begin() const;
  int64_t source_bytes() const;
  int64_t row_bytes() const;  // of a stored row, where rows must not be cut; else of an element or block
  bool is_part() const { return tensor->part.kind != StoredPart::Kind::kWhole; }
  bool picks() const { return is_part() && tensor->part.kind != StoredPart::Kind::kRange; }  // rows or columns
  bool repacks() const { return tensor->repack.kind != Repack::Kind::kNone; }
  bool reads_the_same(const Piece& other) const {
    return source == other.source && source_begin() == other.source_begin() && source_bytes() == other.source_bytes();
  }
};

// Streams pieces through a staging buffer. On a CPU the device's threads do so side by side, each with a part of the
// buffer, and read what lies in memory as it does in the file where it belongs.
class PieceLoader {
 public:
  // What is passed by reference must outlive this.
  PieceLoader(const Checkpoint& checkpoint, Buffer staging, const LoadOptions& options)
      : checkpoint_(checkpoint), staging_(std::move(staging)), options_(options) {}

  // Says that Load will come for them: what options.progress counts with.
  void Expect(absl::Span<const Piece> pieces);

  // Vectors and scales come first, then everything as it lies in the files; a range that several are made of is read
  // once. All has arrived when `stream`, of the device where they go, has got there. DataLoss, naming file, tensor and
  // element: a NaN, an infinity, a scale that is 0. Unimplemented: groups out of order.
  absl::Status Load(Stream& stream, absl::Span<const Piece> pieces);

  int64_t bytes_read() const { return bytes_done_; }

 private:
  // How a range is cut: a chunk is what is read at a time.
  struct Cut {
    int64_t chunk_bytes = 0;
    int64_t num_slots = 1;  // chunks that are in the staging buffer at a time
    int64_t slot_bytes = 0;
  };
  absl::StatusOr<Cut> CutOf(const Piece& piece) const;
  absl::Status LoadRange(absl::Span<const Piece* const> pieces);
  absl::Status LoadSideBySide(absl::Span<const Piece* const> pieces, const Cut& cut, int64_t begin, int64_t end);
  absl::Status LoadChunk(absl::Span<const Piece* const> pieces, int64_t offset, int64_t num_bytes, uint8_t* staging);
  absl::Status CheckValues(const Piece& piece, int64_t offset, absl::Span<const uint8_t> chunk) const;
  absl::Status CheckBlocks(const Piece& piece, int64_t offset, absl::Span<const uint8_t> chunk) const;
  absl::Status CheckGroupIdx(const Piece& piece, int64_t first, absl::Span<const uint8_t> chunk) const;
  absl::Status CheckZeroPoints(const Piece& piece, int64_t first, absl::Span<const uint8_t> chunk) const;
  absl::Status Damaged(const Piece& piece, int64_t element, absl::string_view what) const;
  absl::Status Send(const Piece& piece, int64_t offset, absl::Span<const uint8_t> chunk, uint8_t* free);
  void Put(uint8_t* dst, const uint8_t* src, int64_t num_bytes);
  void PutRows(const Piece& piece, int64_t offset, absl::Span<const uint8_t> values, uint8_t* free);
  void PutColumns(const Piece& piece, int64_t offset, absl::Span<const uint8_t> values, uint8_t* free);

  const Checkpoint& checkpoint_;
  Stream* stream_ = nullptr;  // of the Load under way
  bool is_cpu_ = false;       // its device
  const Buffer staging_;
  const LoadOptions& options_;
  int64_t bytes_total_ = 0, bytes_done_ = 0, bytes_enqueued_ = 0;
};

}  // namespace tokenferry

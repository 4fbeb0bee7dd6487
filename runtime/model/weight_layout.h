// Where the tensors that a rank keeps lie in its buffers. What LoadWeights (runtime/model/weights.h) is made of.
#pragma once

#include <cstdint>
#include <map>
#include <tuple>
#include <vector>

#include "absl/types/span.h"
#include "core/formats/weight_format.h"
#include "core/round_up.h"
#include "core/status.h"
#include "runtime/checkpoint/checkpoint.h"
#include "runtime/model/tensor_plan.h"
#include "runtime/model/weight_loader.h"
#include "runtime/model/weights.h"

namespace tokenferry {

constexpr int64_t kTensorAlignment = 64;  // of a tensor within its buffer: a cache line

inline int64_t AlignTensor(int64_t num_bytes) { return RoundUp(num_bytes, kTensorAlignment); }

// One buffer per layer and group.
enum class BufferGroup : uint8_t { kEmbedding, kAttention, kFfn, kExperts, kHead };
using BufferKey = std::tuple<int32_t, BufferGroup>;  // layer, group

// A tensor that this rank keeps: where its parts lie in its buffer, and what it is made of.
struct Held {
  const TensorSpec* spec;
  BufferKey buffer;
  int64_t data, scales, zero_points, end;  // offsets in the buffer; end: of all three
  size_t first_piece;                      // of as many as the tensor has stored ones
  uint8_t* base = nullptr;                 // of the buffer

  size_t num_pieces() const { return spec->stored.size(); }
  // Its view, or that of a copy whose parts lie likewise from `begin` on.
  WeightView View() const { return ViewAt(base + data); }
  WeightView ViewAt(uint8_t* begin) const;
};

// The view of a matrix of `format` whose parts lie there; what the format has not is not looked at.
WeightView MakeView(const TensorSpec& spec, const WeightFormat& format, uint8_t* data, uint8_t* scales,
                    uint8_t* zero_points);

// What this rank needs, laid out in buffers.
struct WeightLayout {
  std::vector<Held> held;
  std::vector<Piece> pieces;  // by tensor, in the order of TensorSpec::stored
  std::map<BufferKey, int64_t> buffer_bytes;
  std::vector<int32_t> slot_of_expert;  // -1: not on this rank

  absl::Span<Piece> PiecesOf(const Held& h) { return absl::MakeSpan(pieces).subspan(h.first_piece, h.num_pieces()); }
};

// `plan` must outlive the layout. InvalidArgument for a tensor that the checkpoint has not.
absl::StatusOr<WeightLayout> MakeLayout(const Checkpoint& checkpoint, const TensorPlan& plan,
                                        const LoadOptions& options);

// Buffers of `device` for all that is held: in `weights`, and in Held::base.
absl::Status AllocateBuffers(Device& device, WeightLayout& layout, ModelWeights& weights);

// Where the pieces of a tensor go whose parts lie there.
void SetDestinations(absl::Span<Piece> pieces, uint8_t* data, uint8_t* scales, uint8_t* zero_points);

}  // namespace tokenferry

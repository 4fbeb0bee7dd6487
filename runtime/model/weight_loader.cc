#include "runtime/model/weight_loader.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <tuple>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/formats/block_decode.h"
#include "core/round_up.h"
#include "runtime/ops/finite_check.h"

namespace tokenferry {
namespace {

using Use = StoredTensor::Use;
using PartKind = StoredPart::Kind;

constexpr int64_t kPartAlignment = 64;                    // of the parts of the staging buffer
constexpr int64_t kMaxEnqueuedBytes = int64_t{64} << 20;  // copies a device may hold back before it is waited for

// Bytes of an element, as it lies in memory: those of a column go one behind the other.
int64_t ElementBytes(const Piece& piece) {
  switch (piece.tensor->repack.kind) {
    case Repack::Kind::kNone:
      return DTypeBytes(piece.tensor->dtype);
    case Repack::Kind::kWiden:
    case Repack::Kind::kWidenAddOne:
    case Repack::Kind::kAddOne:
      return sizeof(float);
    default:
      return 1;
  }
}

// Bytes of a repacked row.
int64_t RowBytes(const Piece& piece) { return piece.row_bytes() * piece.tensor->repack.growth(); }

// Scales, norms and biases first, since they are quick to find fault with; then everything as it lies in the files.
std::tuple<bool, int, int64_t> OrderKey(const Piece& piece) {
  const bool is_large = piece.tensor->use == Use::kData && piece.spec->shape.size() > 1;
  return {is_large, piece.source->shard_idx, piece.source->info->begin + piece.source_begin()};
}

// Visits the pieces in order, those together that are made of the same bytes.
absl::Status VisitRanges(absl::Span<const Piece> pieces,
                         absl::FunctionRef<absl::Status(absl::Span<const Piece* const>)> visit) {
  std::vector<const Piece*> order;
  for (const Piece& piece : pieces) order.push_back(&piece);
  std::stable_sort(order.begin(), order.end(),
                   [](const Piece* a, const Piece* b) { return OrderKey(*a) < OrderKey(*b); });
  for (size_t begin = 0, end = 0; begin < order.size(); begin = end) {
    while (end < order.size() && order[end]->reads_the_same(*order[begin])) ++end;
    TF_RETURN_IF_ERROR(visit(absl::MakeConstSpan(order).subspan(begin, end - begin)));
  }
  return absl::OkStatus();
}

}  // namespace

void PieceLoader::Expect(absl::Span<const Piece> pieces) {
  VisitRanges(pieces, [&](absl::Span<const Piece* const> same) {
    bytes_total_ += same[0]->source_bytes();
    return absl::OkStatus();
  }).IgnoreError();  // there is none
}

absl::Status PieceLoader::Load(absl::Span<const Piece> pieces) {
  return VisitRanges(pieces, [&](absl::Span<const Piece* const> same) { return LoadRange(same); });
}

// Bytes that are read at a time, so that what is made of them fits beside them in the staging buffer: the repacked
// bytes, and a column or the rows of them.
absl::StatusOr<int64_t> PieceLoader::ChunkBytes(const Piece& piece) const {
  const auto staging = static_cast<int64_t>(staging_.num_bytes());
  const int64_t growth = piece.tensor->repack.growth();
  const bool repacks = piece.tensor->repack.kind != Repack::Kind::kNone;
  const bool is_copied = !repacks && !piece.picks();
  const int64_t parts = 1 + (repacks ? growth : 0) + (piece.picks() ? growth : 0);
  const int64_t most = is_copied ? staging : (staging - 2 * kPartAlignment) / parts;
  const int64_t unit = is_copied ? std::lcm(kPartAlignment, piece.row_bytes()) : piece.row_bytes();
  if (unit <= most) return most / unit * unit;
  return absl::ResourceExhaustedError(absl::StrCat("tensor '", piece.tensor->name, "' has rows of ", unit,
                                                   " bytes, too long for a staging buffer of ", staging));
}

// Pieces that are made of the same bytes.
absl::Status PieceLoader::LoadRange(absl::Span<const Piece* const> pieces) {
  const Piece& first = *pieces[0];
  const int64_t num_bytes = first.source_bytes();
  TF_ASSIGN_OR_RETURN(const int64_t chunk_bytes, ChunkBytes(first));
  for (int64_t offset = 0; offset < num_bytes; offset += chunk_bytes) {
    const auto chunk = absl::MakeSpan(staging_.as<uint8_t>(), std::min(chunk_bytes, num_bytes - offset));
    TF_RETURN_IF_ERROR(checkpoint_.Read(*first.source, first.source_begin() + offset, chunk));
    TF_RETURN_IF_ERROR(CheckValues(first, first.source_begin() + offset, chunk));
    for (const Piece* piece : pieces) {
      if (piece->dst != nullptr) TF_RETURN_IF_ERROR(Send(*piece, offset, chunk));
    }
    bytes_done_ += static_cast<int64_t>(chunk.size());
    if (options_.progress) TF_RETURN_IF_ERROR(options_.progress(bytes_done_, bytes_total_));
  }
  return absl::OkStatus();
}

// `offset` is that of the chunk in the tensor.
absl::Status PieceLoader::CheckValues(const Piece& piece, int64_t offset, absl::Span<const uint8_t> chunk) const {
  const StoredTensor& tensor = *piece.tensor;
  if (IsBlockType(tensor.dtype)) return CheckBlocks(piece, offset, chunk);
  const int64_t first = offset * 8 / DTypeBits(tensor.dtype);
  if (tensor.use == Use::kGroupIdx) return CheckGroupIdx(piece, first, chunk);
  if (tensor.use == Use::kZeroPoints) return CheckZeroPoints(piece, first, chunk);
  if (tensor.use == Use::kScales && tensor.dtype == DType::kU8) {
    const int64_t idx = FindNonFinite(DType::kUE8M0, chunk);
    return idx < 0 ? absl::OkStatus() : Damaged(piece, first + idx, "NaN (0xff)");
  }
  if (tensor.dtype == DType::kI32 || tensor.dtype == DType::kI8 || tensor.dtype == DType::kU8) return absl::OkStatus();
  int64_t idx = FindNonFinite(tensor.dtype, chunk);
  if (idx < 0 && tensor.use == Use::kScales) idx = FindZero(tensor.dtype, chunk);
  if (idx < 0) return absl::OkStatus();
  return Damaged(piece, first + idx, DescribeElement(tensor.dtype, chunk, idx));
}

absl::Status PieceLoader::Damaged(const Piece& piece, int64_t element, absl::string_view what) const {
  const TensorInfo& info = *piece.source->info;
  const int64_t cols = info.shape.empty() ? 1 : info.shape.back();
  return absl::DataLossError(absl::StrCat(checkpoint_.shard(piece.source->shard_idx).path(), ": tensor '", info.name,
                                          "': element ", element, " (row ", element / cols, ", column ", element % cols,
                                          ") of ", DescribeTensor(info.dtype, info.shape), " is ", what,
                                          "; the file is damaged"));
}

absl::Status PieceLoader::CheckBlocks(const Piece& piece, int64_t offset, absl::Span<const uint8_t> chunk) const {
  const DType dtype = piece.tensor->dtype;
  const DTypeBlock size = BlockOf(dtype);
  const int64_t idx = FindNonFiniteScale(dtype, chunk.data(), static_cast<int64_t>(chunk.size()));
  if (idx < 0) return absl::OkStatus();
  return Damaged(piece, offset / size.bytes * size.elements + idx, "in a block whose scale is NaN or infinite");
}

absl::Status PieceLoader::CheckGroupIdx(const Piece& piece, int64_t first, absl::Span<const uint8_t> chunk) const {
  for (int64_t i = 0; i < static_cast<int64_t>(chunk.size() / 4); ++i) {
    int32_t group;
    std::memcpy(&group, chunk.data() + 4 * i, sizeof(group));
    if (group == (first + i) / piece.spec->stored_format.block_cols) continue;
    return absl::UnimplementedError(absl::StrCat(checkpoint_.shard(piece.source->shard_idx).path(), ": tensor '",
                                                 piece.tensor->name, "' puts input ", first + i, " into group ", group,
                                                 ", not into ", (first + i) / piece.spec->stored_format.block_cols,
                                                 ": groups out of order (act-order) are not supported"));
  }
  return absl::OkStatus();
}

// A zero point takes a byte in memory: with GPTQ's offset the largest of 8 bits does not fit.
absl::Status PieceLoader::CheckZeroPoints(const Piece& piece, int64_t first, absl::Span<const uint8_t> chunk) const {
  const Repack& repack = piece.tensor->repack;
  if (repack.bits != 8 || repack.zero_offset == 0) return absl::OkStatus();
  const auto* bad = std::find(chunk.begin(), chunk.end(), uint8_t{0xFF});
  if (bad == chunk.end()) return absl::OkStatus();
  return Damaged(piece, first + (bad - chunk.begin()) / 4, "a word with the zero point 256, beyond 8 bits");
}

absl::Status PieceLoader::Send(const Piece& piece, int64_t offset, absl::Span<const uint8_t> chunk) {
  const Repack& repack = piece.tensor->repack;
  uint8_t* free = staging_.as<uint8_t>() + RoundUp(static_cast<int64_t>(chunk.size()), kPartAlignment);
  absl::Span<const uint8_t> values = chunk;
  if (repack.kind != Repack::Kind::kNone) {
    RepackBytes(repack, piece.tensor->dtype, piece.tensor->part.cols, chunk, free);
    values = absl::MakeConstSpan(free, chunk.size() * static_cast<size_t>(repack.growth()));
    offset *= repack.growth();
    free += RoundUp(static_cast<int64_t>(values.size()), kPartAlignment);
  }
  if (!piece.picks()) {
    stream_.CopyToDevice(piece.dst + offset, values.data(), values.size());
  } else if (piece.tensor->part.kind == PartKind::kRows) {
    SendRows(piece, offset, values, free);
  } else if (const int64_t bytes = ElementBytes(piece); bytes == 4) {
    SendColumns<uint32_t>(piece, offset, values, free);
  } else if (bytes == 2) {
    SendColumns<uint16_t>(piece, offset, values, free);
  } else {
    SendColumns<uint8_t>(piece, offset, values, free);
  }
  bytes_enqueued_ += static_cast<int64_t>(values.size());
  if (bytes_enqueued_ < kMaxEnqueuedBytes) return absl::OkStatus();
  bytes_enqueued_ = 0;
  return stream_.Synchronize();
}

// `values` are whole rows, from byte `offset` of the piece's range.
void PieceLoader::SendRows(const Piece& piece, int64_t offset, absl::Span<const uint8_t> values, uint8_t* rows) {
  const StoredPart& part = piece.tensor->part;
  const int64_t row_bytes = RowBytes(piece), first = offset / row_bytes;
  const int64_t end = first + static_cast<int64_t>(values.size()) / row_bytes;
  int64_t count = 0, begin = -1;  // of the matrix
  for (int64_t row = first; row < end; ++row) {
    if (row % part.step != part.first) continue;
    if (begin < 0) begin = row / part.step;
    std::memcpy(rows + count++ * row_bytes, values.data() + (row - first) * row_bytes, row_bytes);
  }
  if (count > 0) stream_.CopyToDevice(piece.dst + begin * row_bytes, rows, static_cast<size_t>(count * row_bytes));
}

// The same; each row is a column of the piece's matrix.
template <class Element>
void PieceLoader::SendColumns(const Piece& piece, int64_t offset, absl::Span<const uint8_t> values,
                              uint8_t* column_bytes) {
  constexpr auto kBytes = static_cast<int64_t>(sizeof(Element));
  const StoredPart& part = piece.tensor->part;
  const int64_t row_bytes = RowBytes(piece), cols = row_bytes / kBytes, first = offset / row_bytes;
  const int64_t num_stored = piece.source_bytes() / piece.row_bytes();
  const int64_t n = static_cast<int64_t>(values.size()) / row_bytes;
  for (int64_t row = 0; row < piece.spec->shape[0]; ++row) {
    const int64_t col = part.first + row * part.step;
    for (int64_t i = 0; i < n; ++i) {
      std::memcpy(column_bytes + i * kBytes, values.data() + (i * cols + col) * kBytes, sizeof(Element));
    }
    stream_.CopyToDevice(piece.dst + (row * num_stored + first) * kBytes, column_bytes,
                         static_cast<size_t>(n * kBytes));
  }
}

int64_t Piece::source_begin() const { return is_part() ? BytesOfElements(tensor->dtype, tensor->part.begin) : 0; }

int64_t Piece::source_bytes() const {
  return is_part() ? BytesOfElements(tensor->dtype, tensor->part.size) : source->info->num_bytes;
}

int64_t Piece::row_bytes() const {
  if (!picks()) return BlockOf(tensor->dtype).bytes;
  return tensor->part.cols * DTypeBytes(tensor->dtype) * tensor->repack.rows_at_a_time();
}

}  // namespace tokenferry

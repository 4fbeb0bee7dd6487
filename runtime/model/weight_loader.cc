#include "runtime/model/weight_loader.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <numeric>
#include <tuple>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "core/formats/block_decode.h"
#include "core/round_up.h"
#include "runtime/model/transpose.h"
#include "runtime/ops/finite_check.h"

namespace tokenferry {
namespace {

using Use = StoredTensor::Use;
using PartKind = StoredPart::Kind;

constexpr int64_t kPartAlignment = 64;                    // of the parts of the staging buffer
constexpr int64_t kMaxEnqueuedBytes = int64_t{64} << 20;  // copies a device may hold back before it is waited for
constexpr int64_t kMaxSlots = 8;                          // threads that read side by side
constexpr int64_t kMinChunkBytes = int64_t{128} << 10;    // worth waking a thread for
constexpr int64_t kMaxJobBytes = int64_t{64} << 20;       // between two calls of LoadOptions::progress
constexpr int64_t kWriteBytes = 64;                       // threads write into no line of each other

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

// Tasks of a CPU's threads; a GPU is never asked.
struct LoadTasksArgs {
  const absl::FunctionRef<void(int64_t task)>* body;
  int64_t num_tasks;
};

void LoadTasksReference(const LoadTasksArgs& a) {
  for (int64_t task = 0; task < a.num_tasks; ++task) (*a.body)(task);
}

void LoadTasksCpu(const LoadTasksArgs& a, CpuContext& context) {
  context.pool.ParallelFor(a.num_tasks, [&](int64_t task, int) { (*a.body)(task); });
}

constexpr Op<LoadTasksArgs> kLoadTasks{"load_tasks", &LoadTasksReference, &LoadTasksCpu};

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

absl::Status PieceLoader::Load(Stream& stream, absl::Span<const Piece> pieces) {
  stream_ = &stream;
  is_cpu_ = stream.device().kind() == DeviceKind::kCpu;
  return VisitRanges(pieces, [&](absl::Span<const Piece* const> same) { return LoadRange(same); });
}

// What is made of a chunk fits beside it in its slot: the repacked bytes and, where a copy takes them to the device, a
// column or the rows of them. Few slots where rows are so long that a line's worth of them would not fit.
absl::StatusOr<PieceLoader::Cut> PieceLoader::CutOf(const Piece& piece) const {
  const auto staging = static_cast<int64_t>(staging_.num_bytes());
  const int64_t growth = piece.tensor->repack.growth();
  const bool is_copied = !piece.repacks() && !piece.picks();
  const int64_t parts = 1 + (piece.repacks() ? growth : 0) + (piece.picks() && !is_cpu_ ? growth : 0);
  const int64_t unit = is_copied ? std::lcm(kPartAlignment, piece.row_bytes()) : piece.row_bytes();
  const bool transposes = piece.picks() && piece.tensor->part.kind == PartKind::kColumns;
  const int64_t best_unit = transposes ? unit * (kWriteBytes / ElementBytes(piece)) : unit;
  Cut cut{.num_slots = is_cpu_ ? kMaxSlots : 1};
  int64_t most = 0;
  for (;; cut.num_slots /= 2) {
    cut.slot_bytes = staging / cut.num_slots / kPartAlignment * kPartAlignment;
    most = is_copied ? cut.slot_bytes : (cut.slot_bytes - 2 * kPartAlignment) / parts;
    if (best_unit <= most || cut.num_slots == 1) break;
  }
  if (unit > most) {
    return absl::ResourceExhaustedError(absl::StrCat("tensor '", piece.tensor->name, "' has rows of ", unit,
                                                     " bytes, too long for a staging buffer of ", staging));
  }
  const int64_t step = best_unit <= most ? best_unit : unit;
  const int64_t share = std::max(kMinChunkBytes, piece.source_bytes() / cut.num_slots);
  cut.chunk_bytes = std::min(most / step * step, RoundUp(share, step));
  return cut;
}

// Pieces that are made of the same bytes.
absl::Status PieceLoader::LoadRange(absl::Span<const Piece* const> pieces) {
  const int64_t num_bytes = pieces[0]->source_bytes();
  TF_ASSIGN_OR_RETURN(const Cut cut, CutOf(*pieces[0]));
  const int64_t job_bytes =
      is_cpu_ ? std::max<int64_t>(1, kMaxJobBytes / cut.chunk_bytes) * cut.chunk_bytes : cut.chunk_bytes;
  for (int64_t begin = 0; begin < num_bytes; begin += job_bytes) {
    const int64_t end = std::min(num_bytes, begin + job_bytes);
    TF_RETURN_IF_ERROR(is_cpu_ ? LoadSideBySide(pieces, cut, begin, end)
                               : LoadChunk(pieces, begin, end - begin, staging_.as<uint8_t>()));
    bytes_done_ += end - begin;
    if (options_.progress) TF_RETURN_IF_ERROR(options_.progress(bytes_done_, bytes_total_));
  }
  return absl::OkStatus();
}

// Of several chunks that cannot be loaded the first one's error counts, as if one thread had met it.
absl::Status PieceLoader::LoadSideBySide(absl::Span<const Piece* const> pieces, const Cut& cut, int64_t begin,
                                         int64_t end) {
  std::atomic<int64_t> next{begin}, failed_at{end};
  std::mutex mutex;
  absl::Status status;
  const auto load = [&](int64_t slot) {
    while (true) {
      const int64_t offset = next.fetch_add(cut.chunk_bytes);
      if (offset >= failed_at.load()) return;
      absl::Status loaded = LoadChunk(pieces, offset, std::min(cut.chunk_bytes, end - offset),
                                      staging_.as<uint8_t>() + slot * cut.slot_bytes);
      if (loaded.ok()) continue;
      const std::lock_guard lock(mutex);
      if (offset >= failed_at.load()) return;
      failed_at.store(offset);
      status = std::move(loaded);
    }
  };
  const absl::FunctionRef<void(int64_t)> body(load);
  const int64_t num_chunks = (end - begin + cut.chunk_bytes - 1) / cut.chunk_bytes;
  stream_->Launch(kLoadTasks, {.body = &body, .num_tasks = std::min(cut.num_slots, num_chunks)});
  TF_RETURN_IF_ERROR(stream_->Synchronize());
  return status;
}

// `staging` is the chunk's slot.
absl::Status PieceLoader::LoadChunk(absl::Span<const Piece* const> pieces, int64_t offset, int64_t num_bytes,
                                    uint8_t* staging) {
  const Piece& first = *pieces[0];
  const bool in_place = is_cpu_ && pieces.size() == 1 && first.dst != nullptr && !first.repacks() && !first.picks();
  const auto chunk = absl::MakeSpan(in_place ? first.dst + offset : staging, static_cast<size_t>(num_bytes));
  TF_RETURN_IF_ERROR(checkpoint_.Read(*first.source, first.source_begin() + offset, chunk));
  TF_RETURN_IF_ERROR(CheckValues(first, first.source_begin() + offset, chunk));
  if (in_place) return absl::OkStatus();
  for (const Piece* piece : pieces) {
    if (piece->dst == nullptr) continue;
    TF_RETURN_IF_ERROR(Send(*piece, offset, chunk, staging + RoundUp(num_bytes, kPartAlignment)));
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

// From `free` on the chunk's slot is free.
absl::Status PieceLoader::Send(const Piece& piece, int64_t offset, absl::Span<const uint8_t> chunk, uint8_t* free) {
  const Repack& repack = piece.tensor->repack;
  absl::Span<const uint8_t> values = chunk;
  if (piece.repacks()) {
    RepackBytes(repack, piece.tensor->dtype, piece.tensor->part.cols, chunk, free);
    values = absl::MakeConstSpan(free, chunk.size() * static_cast<size_t>(repack.growth()));
    offset *= repack.growth();
    free += RoundUp(static_cast<int64_t>(values.size()), kPartAlignment);
  }
  if (!piece.picks()) {
    Put(piece.dst + offset, values.data(), static_cast<int64_t>(values.size()));
  } else if (piece.tensor->part.kind == PartKind::kRows) {
    PutRows(piece, offset, values, free);
  } else {
    PutColumns(piece, offset, values, free);
  }
  if (is_cpu_) return absl::OkStatus();
  bytes_enqueued_ += static_cast<int64_t>(values.size());
  if (bytes_enqueued_ < kMaxEnqueuedBytes) return absl::OkStatus();
  bytes_enqueued_ = 0;
  return stream_->Synchronize();
}

void PieceLoader::Put(uint8_t* dst, const uint8_t* src, int64_t num_bytes) {
  if (is_cpu_) {
    std::memcpy(dst, src, static_cast<size_t>(num_bytes));
  } else {
    stream_->CopyToDevice(dst, src, static_cast<size_t>(num_bytes));
  }
}

// `values` are whole rows, from byte `offset` of the piece's range.
void PieceLoader::PutRows(const Piece& piece, int64_t offset, absl::Span<const uint8_t> values, uint8_t* free) {
  const StoredPart& part = piece.tensor->part;
  const int64_t row_bytes = RowBytes(piece), first = offset / row_bytes;
  const int64_t end = first + static_cast<int64_t>(values.size()) / row_bytes;
  const int64_t begin = first <= part.first ? 0 : (first - part.first + part.step - 1) / part.step;  // of the matrix
  uint8_t* const to = piece.dst + begin * row_bytes;
  uint8_t* const rows = is_cpu_ ? to : free;
  int64_t num_bytes = 0;
  for (int64_t row = part.first + begin * part.step; row < end; row += part.step, num_bytes += row_bytes) {
    std::memcpy(rows + num_bytes, values.data() + (row - first) * row_bytes, static_cast<size_t>(row_bytes));
  }
  if (!is_cpu_ && num_bytes > 0) stream_->CopyToDevice(to, rows, static_cast<size_t>(num_bytes));
}

// The same; each row is a column of the piece's matrix.
void PieceLoader::PutColumns(const Piece& piece, int64_t offset, absl::Span<const uint8_t> values, uint8_t* free) {
  const StoredPart& part = piece.tensor->part;
  const int64_t element_bytes = ElementBytes(piece), row_bytes = RowBytes(piece), first = offset / row_bytes;
  const int64_t num_stored = piece.source_bytes() / piece.row_bytes(), num_matrix_rows = piece.spec->shape[0];
  const int64_t num_rows = static_cast<int64_t>(values.size()) / row_bytes;
  const int64_t column_bytes = num_rows * element_bytes, dst_stride = num_stored * element_bytes;
  uint8_t* const to = piece.dst + first * element_bytes;
  TransposeColumns({.element_bytes = element_bytes,
                    .src = values.data() + part.first * element_bytes,
                    .src_stride = row_bytes,
                    .num_rows = num_rows,
                    .num_cols = num_matrix_rows,
                    .step = part.step,
                    .dst = is_cpu_ ? to : free,
                    .dst_stride = is_cpu_ ? dst_stride : column_bytes});
  for (int64_t row = 0; !is_cpu_ && row < num_matrix_rows; ++row) {
    stream_->CopyToDevice(to + row * dst_stride, free + row * column_bytes, static_cast<size_t>(column_bytes));
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

#include <algorithm>
#include <iterator>
#include <utility>

#include "comm/exchange/path/mapped_memory.h"
#include "comm/exchange/two_level/two_level_memory.h"
#include "comm/ops/copy_rows.h"
#include "comm/ops/row_codec_ops.h"
#include "comm/transport/collectives.h"
#include "core/device/growing_buffer.h"
#include "core/round_up.h"

namespace tokenferry {

// Own rows and those pulled are different rows of all that this host gets: one per token at most. Of outputs, a host
// has one per selection, and as many as a rank has selections come back to it.
DeviceTwoLevelLayout DeviceTwoLevelLayout::For(const DeviceCapacity& c, int64_t row_bytes, int64_t out_bytes) {
  constexpr int64_t kAlignment = 256;
  DeviceTwoLevelLayout layout;
  layout.rows = c.num_ranks * c.tokens;
  layout.outputs = c.recv_selections() + c.send_selections();
  layout.outputs_begin = RoundUp(layout.rows * row_bytes, kAlignment);
  layout.num_bytes = RoundUp(layout.outputs_begin + layout.outputs * out_bytes, MappedMemory::kPieceBytes);
  return layout;
}

namespace {

class DeviceTwoLevelMemory : public TwoLevelMemory {
 public:
  DeviceTwoLevelMemory(const PathContext& context, const TwoLevelLayout& layout)
      : device_(context.device),
        layout_(layout),
        rank_(context.transport.rank().value),
        row_bytes_(RowBytes(context.options.resident_dtype(), context.options.hidden)),
        out_bytes_(RowBytes(context.options.output_dtype, context.options.hidden)) {}

  // Collective.
  absl::Status Start(const PathContext& context, const TwoLevelRoutes& routes) {
    Transport& transport = context.transport;
    TF_ASSIGN_OR_RETURN(const DeviceCapacity capacity,
                        AgreeOnDeviceCapacity(transport, kStartTwoLevel, context.options));
    capacity_ = DeviceTwoLevelLayout::For(capacity, row_bytes_, out_bytes_);
    auto own = device_.Allocate(capacity_.num_bytes, MemoryKind::kDevice, "exchange: rows and outputs of this host");
    TF_RETURN_IF_ERROR(AgreeOnStatus(transport, kStartTwoLevel, own.status()));
    TF_ASSIGN_OR_RETURN(memory_,
                        MappedMemory::Create(transport, kStartTwoLevel, device_, *std::move(own), routes.ranks));
    return absl::OkStatus();
  }

  absl::Status Take(int64_t num_rows, int64_t num_outputs) override {
    if (num_rows <= capacity_.rows && num_outputs <= capacity_.outputs) return absl::OkStatus();
    return absl::ResourceExhaustedError(absl::StrCat(
        "rank ", rank_, " would hold ", num_rows, " rows and ", num_outputs, " outputs, more than the ", capacity_.rows,
        " and ", capacity_.outputs, " that path two_level was created for on ", device_.ToString()));
  }
  char* rows() const override { return memory_.part(rank_); }
  char* outputs() const override { return memory_.part(rank_) + capacity_.outputs_begin; }

  absl::StatusOr<Items> ReadRows(Stream& stream, int64_t num_own, std::vector<int32_t>& rows) override {
    const Region region{0, layout_.rows_per_rank, row_bytes_, capacity_.rows};
    return Pull(stream, region, num_own, {&rows}, row_from_);
  }
  absl::StatusOr<Items> ReadOutputs(Stream& stream, int64_t num_own,
                                    absl::Span<std::vector<int32_t>* const> outputs) override {
    const Region region{capacity_.outputs_begin, layout_.outputs_per_rank, out_bytes_, capacity_.outputs};
    return Pull(stream, region, num_own, outputs, output_from_);
  }

  int64_t shared_bytes() const override { return 0; }

 private:
  // Rows, or outputs, of every part.
  struct Region {
    int64_t begin;   // in a part
    int64_t stride;  // index of rank r's first item, divided by r
    int64_t item_bytes;
    int64_t room;  // items of a part
  };

  absl::StatusOr<Items> Pull(Stream& stream, const Region& region, int64_t num_own,
                             absl::Span<std::vector<int32_t>* const> indices, GrowingBuffer& from) {
    const int64_t own_begin = rank_ * region.stride, own_end = own_begin + region.stride;
    const auto is_own = [&](int32_t item) { return item >= own_begin && item < own_end; };
    pulled_.clear();
    for (const std::vector<int32_t>* items : indices) {
      std::copy_if(items->begin(), items->end(), std::back_inserter(pulled_), [&](int32_t i) { return !is_own(i); });
    }
    std::sort(pulled_.begin(), pulled_.end());
    pulled_.erase(std::unique(pulled_.begin(), pulled_.end()), pulled_.end());
    const auto num_pulled = static_cast<int64_t>(pulled_.size());
    if (num_own + num_pulled > region.room) {
      return absl::ResourceExhaustedError(
          absl::StrCat("rank ", rank_, " would hold ", num_own, " items of its own and ", num_pulled,
                       " of others, more than the ", region.room, " that path two_level was created for"));
    }
    for (std::vector<int32_t>* items : indices) {
      for (int32_t& i : *items) {
        const int64_t at = is_own(i)
                               ? i - own_begin
                               : num_own + (std::lower_bound(pulled_.begin(), pulled_.end(), i) - pulled_.begin());
        i = static_cast<int32_t>(at);
      }
    }
    from_.clear();
    for (const int32_t i : pulled_) {
      const auto rank = static_cast<int>(i / region.stride);
      from_.push_back(memory_.part(rank) + region.begin + i % region.stride * region.item_bytes);
    }
    char* const first = memory_.part(rank_) + region.begin;
    TF_RETURN_IF_ERROR(from.Upload(stream, from_));
    stream.Launch(kPullRowsFrom,
                  {from.as<const char*>(), num_pulled, region.item_bytes, first + num_own * region.item_bytes});
    return Items{first, num_own + num_pulled};
  }

  Device& device_;
  const TwoLevelLayout& layout_;
  const int rank_;
  const int64_t row_bytes_, out_bytes_;
  DeviceTwoLevelLayout capacity_;
  MappedMemory memory_;
  std::vector<int32_t> pulled_;    // items of other ranks, increasing
  std::vector<const char*> from_;  // where each lies
  GrowingBuffer row_from_{MemoryKind::kDevice, "exchange: rows of other ranks"};
  GrowingBuffer output_from_{MemoryKind::kDevice, "exchange: outputs of other ranks"};
};

}  // namespace

absl::StatusOr<std::unique_ptr<TwoLevelMemory>> CreateDeviceTwoLevelMemory(const PathContext& context,
                                                                           const TwoLevelRoutes& routes,
                                                                           const TwoLevelLayout& layout) {
  absl::Status status;
  if (context.device.kind() != DeviceKind::kCpu && context.transport.memory_kind() != MemoryKind::kDevice) {
    status = absl::FailedPreconditionError(
        absl::StrCat("exchange: path two_level sends memory of ", context.device.ToString(), ", which ",
                     context.transport.ToString(), " does not; choose the nccl transport, or path alltoallv"));
  }
  TF_RETURN_IF_ERROR(AgreeOnStatus(context.transport, kStartTwoLevel, status));
  auto memory = std::make_unique<DeviceTwoLevelMemory>(context, layout);
  TF_RETURN_IF_ERROR(memory->Start(context, routes));
  return memory;
}

}  // namespace tokenferry

#include "comm/exchange/two_level/two_level_memory.h"
#include "comm/ops/row_codec_ops.h"
#include "core/round_up.h"

namespace tokenferry {
namespace {

class HostTwoLevelMemory : public TwoLevelMemory {
 public:
  HostTwoLevelMemory(const PathContext& context, PeerMemory& memory, const TwoLevelLayout& layout)
      : memory_(memory),
        layout_(layout),
        rank_(context.transport.rank().value),
        num_ranks_(context.transport.num_ranks()),
        row_bytes_(RowBytes(context.options.resident_dtype(), context.options.hidden)),
        out_bytes_(RowBytes(context.options.output_dtype, context.options.hidden)) {}

  absl::Status Take(int64_t num_rows, int64_t num_outputs) override {
    TF_RETURN_IF_ERROR(TakeMore(layout_.rows, num_rows * row_bytes_, taken_rows_));
    return TakeMore(layout_.outputs, num_outputs * out_bytes_, taken_outputs_);
  }
  char* rows() const override { return memory_.part(rank_) + layout_.rows; }
  char* outputs() const override { return memory_.part(rank_) + layout_.outputs; }

  absl::StatusOr<Items> ReadRows(Stream&, int64_t, std::vector<int32_t>&) override {
    return Items{memory_.base() + layout_.rows, num_ranks_ * layout_.rows_per_rank};
  }
  absl::StatusOr<Items> ReadOutputs(Stream&, int64_t, absl::Span<std::vector<int32_t>* const>) override {
    return Items{memory_.base() + layout_.outputs, num_ranks_ * layout_.outputs_per_rank};
  }

  int64_t shared_bytes() const override { return RoundUp(taken_rows_, kPage) + RoundUp(taken_outputs_, kPage); }

 private:
  // The first `num_bytes` from `begin` of this rank's part; `taken` is how many it has already.
  absl::Status TakeMore(int64_t begin, int64_t num_bytes, int64_t& taken) {
    if (num_bytes <= taken) return absl::OkStatus();
    TF_RETURN_IF_ERROR(memory_.Take(rank_, begin, num_bytes));
    taken = num_bytes;
    return absl::OkStatus();
  }

  PeerMemory& memory_;
  const TwoLevelLayout& layout_;
  const int rank_, num_ranks_;
  const int64_t row_bytes_, out_bytes_;
  int64_t taken_rows_ = 0, taken_outputs_ = 0;  // bytes
};

}  // namespace

std::unique_ptr<TwoLevelMemory> CreateHostTwoLevelMemory(const PathContext& context, PeerMemory& memory,
                                                         const TwoLevelLayout& layout) {
  return std::make_unique<HostTwoLevelMemory>(context, memory, layout);
}

}  // namespace tokenferry

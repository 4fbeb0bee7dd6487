// A weight row of planar codes as the readers of all instruction sets see it: which group they are in, and what its
// scale and zero point are. How codes become numbers is theirs.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/formats/weight_format.h"

namespace tokenferry {

// For steps of kStep inputs, in runs of 16 that have one scale each. Read in segments: SegmentEnd, then Begin for what
// it returned.
// Always inlined: the code has the instructions of the kernel that it is a part of.
template <int64_t kStep>
class PlanarRow {
 public:
  [[gnu::always_inline]] PlanarRow(const WeightView& w, int64_t o)
      : w_(&w),
        o_(o),
        row_(static_cast<const uint8_t*>(w.data) + o * w.row_bytes()),
        table_(CodeTable(w.format.coding)),
        bits_(DTypeBits(w.dtype())),
        flip_(w.dtype() == DType::kU8 ? 0x80 : 0),
        first_group_((w.row_offset + o) * w.scale_stride),
        group_size_(w.format.block_cols),
        is_fast_(group_size_ % kRun == 0),
        has_whole_steps_(group_size_ % kStep == 0) {}

  // A group, where it has whole steps; a step, where it has whole runs; all, where the reader must go value by value.
  // Groups are counted, not divided for, while segments follow each other.
  [[gnu::always_inline]] int64_t SegmentEnd(const WeightView&, int64_t begin, int64_t limit) {
    if (!has_whole_steps_) return is_fast_ ? std::min(limit, begin + kStep) : limit;
    group_ = begin == group_end_ ? group_ + 1 : begin / group_size_;
    group_end_ = (group_ + 1) * group_size_;
    return std::min(limit, group_end_);
  }

  // Whether steps can be loaded.
  [[gnu::always_inline]] bool Begin(int64_t begin, int64_t /*end*/) {
    if (has_whole_steps_) {
      for (int64_t run = 0; run < kNumRuns; ++run) SetRun(run, group_);
    } else if (is_fast_) {
      for (int64_t run = 0; run < kNumRuns; ++run)
        SetRun(run, std::min(begin + run * kRun, w_->cols - 1) / group_size_);
    }
    return is_fast_;
  }

 protected:
  static constexpr int64_t kRun = 16;
  static constexpr int64_t kNumRuns = kStep / kRun;

  [[gnu::always_inline]] void SetRun(int64_t run, int64_t group) {
    scale_[run] = PlanarWeights::ScaleOf(*w_, first_group_ + group);
    const int32_t zero_point = w_->zero_points == nullptr ? 0 : w_->zero_points[first_group_ + group];
    zero_[run] = static_cast<float>(zero_point - flip_);
  }

  const WeightView* w_;
  int64_t o_;
  const uint8_t* row_;
  const int8_t* table_;  // CodeTable; null: codes are numbers
  int64_t bits_;         // of a code
  int32_t flip_;         // unsigned bytes are read as signed ones, 128 less
  // By run of a step.
  float scale_[kNumRuns] = {};
  float zero_[kNumRuns] = {};  // less flip_

 private:
  int64_t first_group_;  // of the row, among those of the matrix
  int64_t group_size_;
  bool is_fast_, has_whole_steps_;
  int64_t group_ = -1, group_end_ = 0;  // of the segment
};

}  // namespace tokenferry

#include "experts/ffn/padded_rows.h"

#include "experts/ffn/count_rows.h"
#include "tests/core/kernels/kernel_test_util.h"

namespace tokenferry {
namespace {

std::vector<CpuDeviceOptions> AllOptions() {
  std::vector<CpuDeviceOptions> list = AllDeviceModes(BestIsa(SupportedIsas()));
  list.push_back(ReferenceOptions());
  return list;
}

TEST(PaddedRows, EverySlotHasCapacityRowsAndComesBack) {
  const std::vector<float> rows = {1, 2, 3, -1, 4, 5, 6, -1, 7, 8, 9, -1};  // three rows of three, stride four
  const std::vector<int64_t> offsets = {0, 2, 2, 3};
  for (const CpuDeviceOptions& options : AllOptions()) {
    TestDevice device(options);
    PadRowsArgs pad;
    pad.in = {.rows = device.Upload(rows),
              .dtype = DType::kF32,
              .hidden = 3,
              .row_stride = 4,
              .row_idx = device.Upload(std::vector<int32_t>{2, 0, 2}),
              .slot_offsets = device.Upload(offsets),
              .max_selections = 3};
    pad.num_slots = 3;
    pad.capacity = 2;
    float* padded = device.Upload(std::vector<float>(18, 99));
    pad.out = padded;
    pad.out_row_idx = device.Allocate<int32_t>(6);
    pad.out_slot_offsets = device.Allocate<int64_t>(4);
    PadRows(device.stream(), pad);
    EXPECT_EQ(device.Download(padded, 18), (std::vector<float>{7, 8, 9, 1, 2, 3, 0, 0, 0, 0, 0, 0, 7, 8, 9, 0, 0, 0}));
    EXPECT_EQ(device.Download(pad.out_row_idx, 6), (std::vector<int32_t>{0, 1, 2, 3, 4, 5}));
    EXPECT_EQ(device.Download(pad.out_slot_offsets, 4), (std::vector<int64_t>{0, 2, 4, 6}));
    float* out = device.Allocate<float>(9);
    UnpadRows(device.stream(),
              {MakeMatrix<const float>(padded, 6, 3), pad.in.slot_offsets, 3, 2, MakeMatrix<float>(out, 3, 3)});
    EXPECT_EQ(device.Download(out, 9), (std::vector<float>{7, 8, 9, 1, 2, 3, 7, 8, 9}));
  }
}

TEST(CountRows, AddsUpWhatEachSlotComputes) {
  for (const CpuDeviceOptions& options : AllOptions()) {
    TestDevice device(options);
    int64_t* counts = device.Upload(std::vector<int64_t>{5, 0, 7});
    const int64_t* offsets = device.Upload(std::vector<int64_t>{0, 2, 2, 3});
    CountRows(device.stream(), {offsets, 3, counts});
    CountRows(device.stream(), {offsets, 3, counts});
    EXPECT_EQ(device.Download(counts, 3), (std::vector<int64_t>{9, 0, 9}));
  }
}

}  // namespace
}  // namespace tokenferry

#include <cmath>

#include "experts/ffn/count_rows.h"
#include "experts/ffn/expert_ffn.h"
#include "experts/ffn/padded_rows.h"
#include "tests/support/cuda_compare.h"

namespace tokenferry {
namespace {

class FfnOpsCudaTest : public CudaCompareTest {};

TEST_F(FfnOpsCudaTest, SiluMul) {
  for (int64_t num_rows : kRowCounts) {
    for (int64_t cols : kWidths) {
      SCOPED_TRACE(testing::Message() << num_rows << " rows of " << cols);
      ExpectSameBits([&](OpRun& run) {
        const int64_t stride = cols + run.rng()() % 3;
        // exp overflows, underflows and is subnormal for some; both zeros and infinities.
        std::vector<float> gates = NormalFloats(run.rng(), num_rows * stride, 40);
        const float special[] = {0.0f, -0.0f, INFINITY, -INFINITY, -88.7f, -89.1f, 103.5f, 1e-40f};
        for (size_t i = 0; i < std::size(special) && i < gates.size(); ++i) gates[i] = special[i];
        const std::vector<float> ups = NormalFloats(run.rng(), num_rows * stride);
        const MatrixView<const float> gate{run.Input(gates), num_rows, cols, stride},
            up{run.Input(ups), num_rows, cols, stride};
        const MatrixView<float> out{run.Output<float>("out", num_rows * stride), num_rows, cols, stride};
        SiluMul(run.stream(), {gate, up, out, RandomLiveRows(run, num_rows)});
        const MatrixView<float> in_place{run.InOut("in place", gates), num_rows, cols, stride};
        SiluMul(run.stream(), {in_place, up, in_place});
      });
    }
  }
}

TEST_F(FfnOpsCudaTest, ClampedSwiglu) {
  for (int64_t num_rows : kRowCounts) {
    for (int64_t cols : kWidths) {
      SCOPED_TRACE(testing::Message() << num_rows << " rows of " << cols);
      ExpectSameBits([&](OpRun& run) {
        std::vector<float> gates = NormalFloats(run.rng(), num_rows * cols, 40);
        const float special[] = {0.0f, -0.0f, INFINITY, 7.0f, -60.0f, 1e-40f};
        for (size_t i = 0; i < std::size(special) && i < gates.size(); ++i) gates[i] = special[i];
        const MatrixView<float> gate{run.InOut("gate", gates), num_rows, cols, cols};
        const MatrixView<const float> up{run.Input(NormalFloats(run.rng(), num_rows * cols, 8)), num_rows, cols, cols};
        ClampedSwiglu(run.stream(), {gate, up, gate, 7.0f, 1.702f, RandomLiveRows(run, num_rows)});
      });
    }
  }
}

TEST_F(FfnOpsCudaTest, Relu) {
  for (int64_t num_rows : kRowCounts) {
    for (int64_t cols : kWidths) {
      SCOPED_TRACE(testing::Message() << num_rows << " rows of " << cols);
      ExpectSameBits([&](OpRun& run) {
        const int64_t stride = cols + run.rng()() % 3;
        std::vector<float> x = NormalFloats(run.rng(), num_rows * stride);
        const float special[] = {-0.0f, 0.0f, std::nanf("5"), INFINITY, -INFINITY, -1e-40f, 1e-40f};
        for (size_t i = 0; i < std::size(special) && i < x.size(); ++i) x[i] = special[i];
        Relu(run.stream(), {{run.InOut("x", x), num_rows, cols, stride}, RandomLiveRows(run, num_rows)});
      });
    }
  }
}

template <class T>
void SlotBiasCase(OpRun& run, int64_t num_slots, int64_t cols) {
  std::vector<int64_t> offsets = {0};
  for (int64_t s = 0; s < num_slots; ++s) offsets.push_back(offsets.back() + run.rng()() % 4);
  const int64_t max_rows = offsets.back() + 3;  // rows behind the last slot's stay as they are
  std::vector<WeightView> bias;
  for (int64_t s = 0; s < num_slots; ++s) bias.push_back(RandomWeight(run, {.dtype = DType::kF32}, 1, cols));
  const MatrixView<T> x{run.InOut("x", NormalValues<T>(run.rng(), max_rows * cols)), max_rows, cols, cols};
  const WeightArray array{.layout = {.format = {.dtype = DType::kF32}, .rows = 1, .cols = cols},
                          .views = run.Input(bias)};
  AddSlotBias(run.stream(), {x, run.Input(offsets), num_slots, array});
}

TEST_F(FfnOpsCudaTest, AddSlotBias) {
  for (int64_t num_slots : {1, 3, 17}) {
    for (int64_t cols : kWidths) {
      SCOPED_TRACE(testing::Message() << num_slots << " slots, " << cols << " columns");
      ExpectSameBits([&](OpRun& run) { SlotBiasCase<float>(run, num_slots, cols); });
      ExpectSameBits([&](OpRun& run) { SlotBiasCase<BF16>(run, num_slots, cols); });
    }
  }
}

template <class T>
void PadCase(OpRun& run, int64_t num_slots, int64_t capacity, int64_t hidden) {
  constexpr int64_t kSourceRows = 9;
  std::vector<int64_t> offsets = {0};
  for (int64_t s = 0; s < num_slots; ++s) offsets.push_back(offsets.back() + run.rng()() % (capacity + 1));
  const int64_t stride = hidden + run.rng()() % 3, n = offsets.back();
  PadRowsArgs pad;
  pad.in.rows = run.Input(NormalValues<T>(run.rng(), kSourceRows * stride));
  pad.in.dtype = kDTypeOf<T>;
  pad.in.hidden = hidden;
  pad.in.row_stride = stride;
  pad.in.row_idx = run.Input(UniformInts(run.rng(), n, 0, kSourceRows));
  pad.in.slot_offsets = run.Input(offsets);
  pad.num_slots = num_slots;
  pad.capacity = capacity;
  T* padded = run.Output<T>("padded", num_slots * capacity * hidden);
  pad.out = padded;
  pad.out_row_idx = run.Output<int32_t>("row_idx", num_slots * capacity);
  pad.out_slot_offsets = run.Output<int64_t>("slot_offsets", num_slots + 1);
  PadRows(run.stream(), pad);
  UnpadRowsArgs unpad;
  unpad.padded = MatrixView<const T>{padded, num_slots * capacity, hidden, hidden};
  unpad.slot_offsets = pad.in.slot_offsets;
  unpad.num_slots = num_slots;
  unpad.capacity = capacity;
  unpad.out = MatrixView<T>{run.Output<T>("out", n * hidden), n, hidden, hidden};
  UnpadRows(run.stream(), unpad);
}

TEST_F(FfnOpsCudaTest, PadAndUnpad) {
  for (int64_t num_slots : {1, 3, 8}) {
    for (int64_t capacity : {1, 7}) {
      for (int64_t hidden : kWidths) {
        SCOPED_TRACE(testing::Message() << num_slots << " slots of " << capacity << " rows of " << hidden);
        ExpectSameBits([&](OpRun& run) { PadCase<float>(run, num_slots, capacity, hidden); });
        ExpectSameBits([&](OpRun& run) { PadCase<BF16>(run, num_slots, capacity, hidden); });
      }
    }
  }
}

TEST_F(FfnOpsCudaTest, CountRows) {
  for (int64_t num_slots : {0, 1, 7, 300}) {
    ExpectSameBits([&](OpRun& run) {
      std::vector<int64_t> offsets = {0}, counts;
      for (int64_t s = 0; s < num_slots; ++s) {
        offsets.push_back(offsets.back() + run.rng()() % 5);
        counts.push_back(run.rng()() % 1000);
      }
      CountRows(run.stream(), {run.Input(offsets), num_slots, run.InOut("counts", counts)});
    });
  }
}

}  // namespace
}  // namespace tokenferry

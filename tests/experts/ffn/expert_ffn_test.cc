#include "experts/ffn/expert_ffn.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/kernels/dot.h"
#include "core/kernels/exp.h"
#include "core/kernels/matmul_values.h"
#include "tests/core/kernels/kernel_test_util.h"

namespace tokenferry {
namespace {

// ---- SiluMul ----

std::vector<float> RunSiluMul(const std::vector<float>& gate, const std::vector<float>& up, int64_t rows, int64_t cols,
                              const CpuDeviceOptions& options) {
  TestDevice device(options);
  SiluMulArgs args;
  args.gate = MakeMatrix<const float>(device.Upload(gate), rows, cols);
  args.up = MakeMatrix<const float>(device.Upload(up), rows, cols);
  args.out = MakeMatrix<float>(device.Allocate<float>(rows * cols), rows, cols);
  SiluMul(device.stream(), args);
  return device.Download(args.out.data, rows * cols);
}

TEST(SiluMul, EveryInstructionSetGivesTheSameBits) {
  std::mt19937 random(51);
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{0, 5}, {1, 1}, {3, 7}, {5, 16}, {2, 33}, {40, 1000}}) {
    const std::vector<float> gate = RandomFloats(rows * cols, random, 30.0f), up = RandomFloats(rows * cols, random);
    const std::vector<float> expected = RunSiluMul(gate, up, rows, cols, ReferenceOptions());
    for (Isa isa : SupportedIsaList()) {
      for (int threads : {1, 2, 3}) {
        EXPECT_TRUE(SameBytes(RunSiluMul(gate, up, rows, cols, FastOptions(isa, threads)), expected)) << IsaName(isa);
      }
    }
  }
}

TEST(SiluMul, SpecialValues) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> gate = {0.0f, -0.0f, inf, -inf, nan, -200.0f, 200.0f, 1.0f, -88.0f};
  const std::vector<float> ones(gate.size(), 1.0f);
  for (Isa isa : SupportedIsaList()) {
    const std::vector<float> y = RunSiluMul(gate, ones, 1, static_cast<int64_t>(gate.size()), FastOptions(isa));
    EXPECT_EQ(y[0], 0.0f);
    EXPECT_EQ(y[1], 0.0f);
    EXPECT_EQ(y[2], inf);
    EXPECT_EQ(y[3], 0.0f);
    EXPECT_TRUE(std::isnan(y[4]));
    EXPECT_EQ(y[5], 0.0f);
    EXPECT_EQ(y[6], 200.0f);
    EXPECT_NEAR(y[7], 0.7310585786, 2e-7);
    EXPECT_LT(y[8], 0.0f);
  }
}

// exp errs by at most 2 ulp <= 4u relative (u = 2^-24), the addition, the division and the product by u each.
TEST(SiluMul, IsNearDouble) {
  std::vector<float> gate, up;
  for (float z = -87.0f; z < 90.0f; z += 0.0123f) {
    gate.push_back(z);
    up.push_back(1.7f);
  }
  const auto size = static_cast<int64_t>(gate.size());
  const std::vector<float> y = RunSiluMul(gate, up, 1, size, FastOptions(BestIsa(SupportedIsas())));
  for (int64_t i = 0; i < size; ++i) {
    const double exact = gate[i] / (1 + std::exp(-static_cast<double>(gate[i]))) * up[i];
    ASSERT_NEAR(y[i], exact, 7.1 * 0x1p-24 * std::fabs(exact)) << gate[i];
  }
}

// ---- ExpertFfn ----

struct FfnCase {
  int64_t hidden, intermediate;
  std::vector<int64_t> slot_offsets;
  std::vector<float> x;  // [kXRows, hidden + kPadding]
  DType x_dtype = DType::kF32;
  std::vector<int32_t> row_idx;
  std::vector<HostWeight> gate, up, down;
  Compute compute = Compute::kF32;
  GatedActivation activation = {};
};
constexpr int64_t kXRows = 9, kPadding = 2;

FfnCase RandomFfn(const std::vector<int64_t>& rows_per_slot, int64_t hidden, int64_t intermediate, DType dtype,
                  std::mt19937& random) {
  FfnCase c;
  c.hidden = hidden;
  c.intermediate = intermediate;
  c.slot_offsets = {0};
  for (int64_t n : rows_per_slot) {
    c.slot_offsets.push_back(c.slot_offsets.back() + n);
    c.gate.push_back(RandomWeight(dtype, intermediate, hidden, random));
    c.up.push_back(RandomWeight(dtype, intermediate, hidden, random));
    c.down.push_back(RandomWeight(dtype, hidden, intermediate, random));
  }
  c.x = RandomFloats(kXRows * (hidden + kPadding), random);
  for (int64_t s = 0; s < c.slot_offsets.back(); ++s) c.row_idx.push_back(static_cast<int32_t>(random() % kXRows));
  return c;
}

WeightArray UploadViews(TestDevice& device, const std::vector<HostWeight>& weights) {
  std::vector<WeightView> views;
  for (const HostWeight& w : weights) views.push_back(w.Upload(device));
  return {views.front(), device.Upload(views)};
}

template <class T>
std::vector<T> RunFfnTo(const FfnCase& c, const CpuDeviceOptions& options) {
  TestDevice device(options);
  const int64_t n = c.slot_offsets.back();
  ExpertFfnArgs args;
  args.rows.rows = c.x_dtype == DType::kF32 ? static_cast<void*>(device.Upload(c.x)) : device.Upload(ToBF16s(c.x));
  args.rows.dtype = c.x_dtype;
  args.rows.hidden = c.hidden;
  args.rows.row_stride = c.hidden + kPadding;
  args.rows.row_idx = device.Upload(c.row_idx);
  args.rows.slot_offsets = device.Upload(c.slot_offsets);
  args.rows.max_selections = n + 3;  // more than there are rows of out and row_idx: nobody touches what is not there
  args.num_slots = static_cast<int64_t>(c.gate.size());
  args.intermediate = c.intermediate;
  args.gate = UploadViews(device, c.gate);
  if (c.activation.has_up()) args.up = UploadViews(device, c.up);
  args.activation = c.activation;
  args.down = UploadViews(device, c.down);
  args.scratch = device.Allocate<float>(args.rows.max_selections * 2 * c.intermediate);
  T* out = device.Allocate<T>(n * c.hidden);
  args.out = MakeMatrix<T>(out, n, c.hidden);
  args.compute = c.compute;
  ExpertFfn(device.stream(), args);
  return device.Download(out, n * c.hidden);
}

std::vector<float> RunFfn(const FfnCase& c, const CpuDeviceOptions& options) { return RunFfnTo<float>(c, options); }

// y = w x, written out.
std::vector<float> PlainProduct(const HostWeight& host, const std::vector<float>& x, Compute compute) {
  WeightView w = host.shape;
  w.data = host.bytes.data();
  w.scales = host.scales.empty() ? nullptr : host.scales.data();
  std::vector<float> y(w.rows), row(w.cols), rounded = x;
  for (float& v : rounded) v = RowValue(&v, DType::kF32, 0, compute);
  for (int64_t o = 0; o < w.rows; ++o) {
    WeightValues(w, o, 0, w.cols, compute, row.data());
    y[o] = DotF32(rounded.data(), row.data(), w.cols);
  }
  return y;
}

// y = down(silu(gate(x)) * up(x)), or down(relu(gate(x))), selection by selection.
std::vector<float> PlainFfn(const FfnCase& c) {
  std::vector<float> out;
  for (size_t slot = 0; slot < c.gate.size(); ++slot) {
    for (int64_t s = c.slot_offsets[slot]; s < c.slot_offsets[slot + 1]; ++s) {
      const auto begin = c.x.begin() + c.row_idx[s] * (c.hidden + kPadding);
      std::vector<float> x(begin, begin + c.hidden);
      if (c.x_dtype == DType::kBF16) {
        for (float& v : x) v = RoundToBF16(v);
      }
      std::vector<float> g = PlainProduct(c.gate[slot], x, c.compute);
      const std::vector<float> u = PlainProduct(c.up[slot], x, c.compute);
      for (int64_t i = 0; i < c.intermediate; ++i) {
        g[i] = c.activation.has_up() ? g[i] / (1.0f + ExpF32(-g[i])) * u[i] : std::max(g[i], 0.0f);
      }
      const std::vector<float> y = PlainProduct(c.down[slot], g, c.compute);
      out.insert(out.end(), y.begin(), y.end());
    }
  }
  return out;
}

const std::vector<std::vector<int64_t>> kSlots = {{0},       {1},           {0, 0, 0},
                                                  {0, 1, 0}, {3, 0, 40, 1}, {2, 2, 2, 2, 2, 2, 90}};

TEST(ExpertFfn, EqualsTheFormulaBitForBit) {
  std::mt19937 random(52);
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF8E4M3}) {
    for (const std::vector<int64_t>& slots : kSlots) {
      for (const auto& [hidden, intermediate] : {std::pair<int64_t, int64_t>{33, 17}, {160, 130}}) {
        FfnCase c = RandomFfn(slots, hidden, intermediate, dtype, random);
        for (Compute compute : {Compute::kF32, Compute::kBF16}) {
          c.compute = compute;
          c.x_dtype = compute == Compute::kF32 ? DType::kF32 : DType::kBF16;
          const std::vector<float> expected = PlainFfn(c);
          EXPECT_TRUE(SameBytes(RunFfn(c, ReferenceOptions()), expected));
          for (Isa isa : SupportedIsaList()) {
            if (isa == Isa::kAvx512Bf16 && compute == Compute::kBF16) continue;
            for (int threads : {1, 2, 3}) {
              EXPECT_TRUE(SameBytes(RunFfn(c, FastOptions(isa, threads)), expected)) << IsaName(isa) << " " << threads;
            }
          }
        }
      }
    }
  }
}

TEST(ExpertFfn, WithReluThereIsNoUp) {
  std::mt19937 random(56);
  for (const std::vector<int64_t>& slots : kSlots) {
    FfnCase c = RandomFfn(slots, 33, 17, DType::kBF16, random);
    c.activation.kind = GatedActivation::Kind::kRelu;
    const std::vector<float> expected = PlainFfn(c);
    EXPECT_TRUE(SameBytes(RunFfn(c, ReferenceOptions()), expected));
    for (Isa isa : SupportedIsaList()) EXPECT_TRUE(SameBytes(RunFfn(c, FastOptions(isa, 2)), expected));
  }
}

TEST(ExpertFfn, NarrowOutputsAreTheWideOnesRoundedOnce) {
  std::mt19937 random(55);
  for (const std::vector<int64_t>& slots : kSlots) {
    FfnCase c = RandomFfn(slots, 160, 130, DType::kBF16, random);
    for (Compute compute : {Compute::kF32, Compute::kBF16}) {
      c.compute = compute;
      for (Isa isa : SupportedIsaList()) {
        for (const CpuDeviceOptions& options : {ReferenceOptions(), FastOptions(isa), FastOptions(isa, 3)}) {
          EXPECT_EQ(RunFfnTo<BF16>(c, options), ToBF16s(RunFfn(c, options))) << IsaName(isa);
        }
      }
    }
  }
}

TEST(ExpertFfn, EveryDeviceModeGivesTheSameBits) {
  std::mt19937 random(53);
  for (const std::vector<int64_t>& slots : kSlots) {
    const FfnCase c = RandomFfn(slots, 33, 17, DType::kBF16, random);
    const std::vector<float> expected = RunFfn(c, ReferenceOptions());
    for (const CpuDeviceOptions& options : AllDeviceModes(BestIsa(SupportedIsas()))) {
      EXPECT_TRUE(SameBytes(RunFfn(c, options), expected));
    }
  }
}

TEST(ExpertFfn, ASelectionDoesNotDependOnItsBatch) {
  std::mt19937 random(54);
  for (DType dtype : {DType::kBF16, DType::kF8E4M3}) {
    for (Compute compute : {Compute::kF32, Compute::kBF16}) {
      FfnCase batch = RandomFfn({5, 0, 70}, 96, 40, dtype, random);
      batch.compute = compute;
      for (Isa isa : SupportedIsaList()) {
        const std::vector<float> all = RunFfn(batch, FastOptions(isa));
        EXPECT_TRUE(SameBytes(RunFfn(batch, FastOptions(isa, 3)), all));
        for (int64_t s : {0, 4, 5, 41, 74}) {
          FfnCase one = batch;
          one.row_idx = {batch.row_idx[s]};
          one.slot_offsets = {0, s < 5, s < 5, 1};
          EXPECT_EQ(0, std::memcmp(RunFfn(one, FastOptions(isa)).data(), &all[s * 96], 96 * sizeof(float)))
              << IsaName(isa) << " selection " << s;
        }
      }
    }
  }
}

}  // namespace
}  // namespace tokenferry

#include "runtime/ops/quantise_weights.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "core/check.h"
#include "core/kernels/row_parallel.h"
#include "core/kernels/scratch.h"
#include "runtime/ops/row_kernels.h"

namespace tokenferry {
namespace {

// A group's place: elements [begin, begin + size) of row `row`, whose scale is the idx-th.
struct GroupPlace {
  int64_t row, begin, size, idx;
};

int32_t Rounded(float x) { return static_cast<int32_t>(std::nearbyint(x)); }

float OrOne(float scale) { return scale == 0 ? 1.0f : scale; }

// Stores the scale in its type and returns what was stored. A number that is not 0 may become 0 there.
float StoreScale(const QuantiseWeightsArgs& a, int64_t idx, float scale) {
  if (a.dst.format.scale_dtype == DType::kF32) return static_cast<float*>(a.scales)[idx] = OrOne(scale);
  const BF16 rounded = ToBF16(OrOne(ToFloat(ToBF16(scale))));
  static_cast<BF16*>(a.scales)[idx] = rounded;
  return ToFloat(rounded);
}

bool AllFinite(const float* x, int64_t size) {
  bool finite = true;
  for (int64_t i = 0; i < size; ++i) finite &= std::isfinite(x[i]);
  return finite;
}

float LargestMagnitude(const float* x, int64_t size) {
  float amax = 0;
  for (int64_t i = 0; i < size; ++i) amax = std::max(amax, std::fabs(x[i]));
  return amax;
}

// Each of the following quantises a group of finite numbers and returns the largest magnitude of what it became, which
// is not finite where the group does not fit.

float RoundToBF16(const QuantiseWeightsArgs& a, const GroupPlace& g, const float* x) {
  auto* out = static_cast<BF16*>(a.data) + g.row * a.dst.cols + g.begin;
  for (int64_t i = 0; i < g.size; ++i) out[i] = ToBF16(x[i]);
  return ToFloat(ToBF16(LargestMagnitude(x, g.size)));
}

float QuantiseF8(const QuantiseWeightsArgs& a, const GroupPlace& g, const float* x) {
  const float amax = LargestMagnitude(x, g.size), scale = StoreScale(a, g.idx, amax / 448);
  auto* codes = static_cast<F8E4M3*>(a.data) + g.row * a.dst.cols + g.begin;
  for (int64_t i = 0; i < g.size; ++i) codes[i] = ToF8E4M3(x[i] / scale);
  return ToFloat(ToF8E4M3(amax / scale)) * scale;
}

float QuantiseInt8(const QuantiseWeightsArgs& a, const GroupPlace& g, const float* x) {
  const float amax = LargestMagnitude(x, g.size), scale = StoreScale(a, g.idx, amax / 127);
  auto* codes = static_cast<int8_t*>(a.data) + g.row * a.dst.cols + g.begin;
  const auto code = [scale](float value) { return std::clamp(Rounded(value / scale), -127, 127); };
  for (int64_t i = 0; i < g.size; ++i) codes[i] = static_cast<int8_t>(code(x[i]));
  return static_cast<float>(code(amax)) * scale;
}

// (hi - lo) / most, also where hi - lo is beyond f32.
float RangeScale(float lo, float hi, int32_t most) {
  const auto steps = static_cast<float>(most);
  return std::isfinite(hi - lo) ? (hi - lo) / steps : hi / steps - lo / steps;
}

float QuantiseWithZeroPoint(const QuantiseWeightsArgs& a, const GroupPlace& g, const float* x) {
  const int64_t bits = DTypeBits(a.dst.dtype());
  const int32_t most = (1 << bits) - 1;
  const auto [lowest, highest] = std::minmax_element(x, x + g.size);
  const float lo = std::min(*lowest, 0.0f), hi = std::max(*highest, 0.0f);
  const float scale = StoreScale(a, g.idx, RangeScale(lo, hi, most));
  const int32_t zero = std::clamp(Rounded(-lo / scale), 0, most);
  a.zero_points[g.idx] = static_cast<uint8_t>(zero);
  uint8_t* row = static_cast<uint8_t*>(a.data) + g.row * a.dst.row_bytes();
  const auto code_of = [=](float value) { return std::clamp(Rounded(value / scale) + zero, 0, most); };
  for (int64_t i = 0; i < g.size; ++i) {
    const auto code = static_cast<uint8_t>(code_of(x[i]));
    const int64_t at = (g.begin + i) * bits;
    if (at % 8 == 0) row[at / 8] = 0;
    row[at / 8] |= static_cast<uint8_t>(code << (at % 8));
  }
  return static_cast<float>(std::max(code_of(hi) - zero, zero - code_of(lo))) * scale;
}

float QuantiseGroup(const QuantiseWeightsArgs& a, const GroupPlace& g, const float* x) {
  if (!a.dst.format.has_scales()) return RoundToBF16(a, g, x);
  if (a.dst.format.coding == WeightCoding::kZeroPoint) return QuantiseWithZeroPoint(a, g, x);
  return a.dst.dtype() == DType::kI8 ? QuantiseInt8(a, g, x) : QuantiseF8(a, g, x);
}

void QuantiseRow(const QuantiseWeightsArgs& a, int64_t row, const RowKernels& kernels) {
  const int64_t cols = a.dst.cols;
  auto* x = static_cast<float*>(ThreadScratch(static_cast<size_t>(cols) * sizeof(float)));
  kernels.widen(a.src, {row, 1, 0, cols}, Compute::kF32, x);
  const int64_t group = a.dst.format.has_scales() ? a.dst.format.block_cols : cols;
  int64_t num_unfit = 0;
  for (int64_t begin = 0; begin < cols; begin += group) {
    const GroupPlace g{row, begin, std::min(group, cols - begin), row * a.dst.scale_stride + begin / group};
    const bool finite = AllFinite(x + begin, g.size);
    if (!finite) std::fill_n(x + begin, g.size, 0.0f);
    const float largest = QuantiseGroup(a, g, x + begin);
    if (!finite || !std::isfinite(largest)) ++num_unfit;
  }
  if (num_unfit > 0) std::atomic_ref<int64_t>(*a.num_unfit_groups).fetch_add(num_unfit, std::memory_order_relaxed);
}

void QuantiseReference(const QuantiseWeightsArgs& a) {
  for (int64_t row = 0; row < a.dst.rows; ++row) QuantiseRow(a, row, PortableRowKernels());
}

void QuantiseCpu(const QuantiseWeightsArgs& a, CpuContext& context) {
  const RowKernels& kernels = RowKernelsFor(context.isa);
  ParallelRows(context, a.dst.rows, a.dst.cols, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) QuantiseRow(a, row, kernels);
  });
}

constexpr Op<QuantiseWeightsArgs> kQuantiseWeights{"quantise_weights", &QuantiseReference, &QuantiseCpu};

}  // namespace

bool CanQuantiseTo(const WeightFormat& f) {
  if (BF16Weights::Matches(f)) return true;
  if (F8BlockWeights::Matches(f)) return f.block_rows == 1;
  return PlanarWeights::Matches(f) && (f.scale_dtype == DType::kF32 || f.scale_dtype == DType::kBF16) &&
         (f.coding == WeightCoding::kZeroPoint || f.dtype == DType::kI8);
}

void QuantiseWeights(Stream& stream, const QuantiseWeightsArgs& args) {
  CheckWeight(args.src);
  TF_CHECK(CanQuantiseTo(args.dst.format));
  TF_CHECK_EQ(args.src.rows, args.dst.rows);
  TF_CHECK_EQ(args.src.cols, args.dst.cols);
  TF_CHECK_EQ(args.dst.row_offset, 0);
  TF_CHECK(args.num_unfit_groups != nullptr);
  stream.Launch(kQuantiseWeights, args);
}

}  // namespace tokenferry

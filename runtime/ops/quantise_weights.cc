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

float OrOne(float scale) { return scale == 0 ? 1.0f : scale; }

// Stores the scale in its type and returns what was stored. A number that is not 0 may become 0 there.
float StoreScale(const QuantiseWeightsArgs& a, int64_t idx, float scale) {
  if (a.dst.format.scale_dtype == DType::kF32) return static_cast<float*>(a.scales)[idx] = OrOne(scale);
  const BF16 rounded = ToBF16(OrOne(ToFloat(ToBF16(scale))));
  static_cast<BF16*>(a.scales)[idx] = rounded;
  return ToFloat(rounded);
}

// A row on its way: its numbers, and codes that have yet to be packed.
struct RowState {
  const RowKernels& kernels;
  float* x;
  uint8_t* codes;
};

float LargestMagnitude(const ValueRange& range) { return std::max(-range.low, range.high); }

// Each of the following quantises a group of finite numbers of that range and returns the largest magnitude of what it
// became, which is not finite where the group does not fit.

float RoundToBF16(const QuantiseWeightsArgs& a, const GroupPlace& g, const RowState& row, const ValueRange& range) {
  auto* out = static_cast<BF16*>(a.data) + g.row * a.dst.cols + g.begin;
  for (int64_t i = 0; i < g.size; ++i) out[i] = ToBF16(row.x[g.begin + i]);
  return ToFloat(ToBF16(LargestMagnitude(range)));
}

float QuantiseF8(const QuantiseWeightsArgs& a, const GroupPlace& g, const RowState& row, const ValueRange& range) {
  const float amax = LargestMagnitude(range), scale = StoreScale(a, g.idx, amax / 448);
  auto* codes = static_cast<F8E4M3*>(a.data) + g.row * a.dst.cols + g.begin;
  row.kernels.round_to_f8(row.x + g.begin, g.size, scale, codes);
  return ToFloat(ToF8E4M3(amax / scale)) * scale;
}

// The code of one number.
int32_t CodeOf(float x, const CodeRounding& r) {
  return std::clamp(static_cast<int32_t>(std::nearbyint(x / r.scale)) + r.zero, r.least, r.most);
}

// Scales are as they were rounded, which no x exceeds by more than twice the number of steps.
float QuantiseInt8(const QuantiseWeightsArgs& a, const GroupPlace& g, const RowState& row, const ValueRange& range) {
  const float amax = LargestMagnitude(range);
  const CodeRounding rounding{.scale = StoreScale(a, g.idx, amax / 127), .least = -127, .most = 127};
  row.kernels.round_to_codes(row.x + g.begin, g.size, rounding, row.codes + g.begin);
  return static_cast<float>(CodeOf(amax, rounding)) * rounding.scale;
}

// (hi - lo) / most, also where hi - lo is beyond f32.
float RangeScale(float lo, float hi, int32_t most) {
  const auto steps = static_cast<float>(most);
  return std::isfinite(hi - lo) ? (hi - lo) / steps : hi / steps - lo / steps;
}

float QuantiseWithZeroPoint(const QuantiseWeightsArgs& a, const GroupPlace& g, const RowState& row,
                            const ValueRange& range) {
  CodeRounding rounding{.most = (1 << DTypeBits(a.dst.dtype())) - 1};
  rounding.scale = StoreScale(a, g.idx, RangeScale(range.low, range.high, rounding.most));
  const int32_t zero = CodeOf(-range.low, rounding);
  a.zero_points[g.idx] = static_cast<uint8_t>(zero);
  rounding.zero = zero;
  row.kernels.round_to_codes(row.x + g.begin, g.size, rounding, row.codes + g.begin);
  return static_cast<float>(std::max(CodeOf(range.high, rounding) - zero, zero - CodeOf(range.low, rounding))) *
         rounding.scale;
}

float QuantiseGroup(const QuantiseWeightsArgs& a, const GroupPlace& g, const RowState& row, const ValueRange& range) {
  if (!a.dst.format.has_scales()) return RoundToBF16(a, g, row, range);
  if (a.dst.format.coding == WeightCoding::kZeroPoint) return QuantiseWithZeroPoint(a, g, row, range);
  return a.dst.dtype() == DType::kI8 ? QuantiseInt8(a, g, row, range) : QuantiseF8(a, g, row, range);
}

// Codes of kBits to as many bytes as they fill.
template <int kBits>
void PackCodes(const uint8_t* codes, int64_t size, uint8_t* out) {
  constexpr int kPerByte = 8 / kBits;
  const int64_t num_whole = size / kPerByte;
  for (int64_t i = 0; i < num_whole; ++i) {
    int byte = 0;
    for (int k = 0; k < kPerByte; ++k) byte |= codes[i * kPerByte + k] << (k * kBits);
    out[i] = static_cast<uint8_t>(byte);
  }
  for (int64_t i = num_whole * kPerByte; i < size; ++i) {
    const int shift = static_cast<int>(i % kPerByte) * kBits;
    out[num_whole] = static_cast<uint8_t>((shift == 0 ? 0 : out[num_whole]) | codes[i] << shift);
  }
}

void QuantiseRow(const QuantiseWeightsArgs& a, int64_t row_idx, const RowKernels& kernels) {
  const int64_t cols = a.dst.cols, bits = DTypeBits(a.dst.dtype());
  auto* scratch = static_cast<uint8_t*>(ThreadScratch(static_cast<size_t>(cols) * (sizeof(float) + 1)));
  uint8_t* data = static_cast<uint8_t*>(a.data) + row_idx * a.dst.row_bytes();
  const RowState row{kernels, reinterpret_cast<float*>(scratch),
                     bits < 8 ? scratch + static_cast<size_t>(cols) * sizeof(float) : data};
  kernels.widen(a.src, {row_idx, 1, 0, cols}, Compute::kF32, row.x);
  const int64_t group = a.dst.format.has_scales() ? a.dst.format.block_cols : cols;
  int64_t num_unfit = 0;
  for (int64_t begin = 0; begin < cols; begin += group) {
    const GroupPlace g{row_idx, begin, std::min(group, cols - begin), row_idx * a.dst.scale_stride + begin / group};
    ValueRange range = kernels.range(row.x + begin, g.size);
    const bool finite = range.is_finite;
    if (!finite) {
      std::fill_n(row.x + begin, g.size, 0.0f);
      range = {};
    }
    const float largest = QuantiseGroup(a, g, row, range);
    if (!finite || !std::isfinite(largest)) ++num_unfit;
  }
  if (bits == 4) PackCodes<4>(row.codes, cols, data);
  if (bits == 2) PackCodes<2>(row.codes, cols, data);
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

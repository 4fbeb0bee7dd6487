#include "comm/ops/row_codec_ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/check.h"
#include "core/device/cuda_launcher.h"
#include "core/formats/scalar.h"
#include "core/kernels/live_rows.h"

namespace tokenferry {
namespace {

constexpr int64_t kMinTaskValues = 16384;  // less work than this is not worth waking a thread
constexpr uint32_t kInfinityBits = 0x7F800000u;

int64_t NumBlocks(int64_t hidden) { return (hidden + kScaleBlock - 1) / kScaleBlock; }

// From the bits of the largest magnitude.
float ScaleOf(uint32_t largest, DType dtype) {
  if (largest >= kInfinityBits) return std::numeric_limits<float>::quiet_NaN();
  return __builtin_bit_cast(float, largest) / (dtype == DType::kI8 ? 127.0f : 448.0f);
}

uint8_t ReferenceCode(float scaled, DType dtype) {
  if (dtype == DType::kF8E4M3) return ToF8E4M3(scaled).bits;
  return static_cast<uint8_t>(static_cast<int8_t>(std::nearbyint(std::clamp(scaled, -127.0f, 127.0f))));
}

void ReferenceQuantiseBlock(const float* x, int64_t size, DType dtype, uint8_t* codes, float* scale) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < size; ++i) largest = std::max(largest, __builtin_bit_cast(uint32_t, std::abs(x[i])));
  *scale = ScaleOf(largest, dtype);
  const bool has_codes = *scale > 0;  // neither 0 nor NaN
  for (int64_t i = 0; i < size; ++i) codes[i] = has_codes ? ReferenceCode(x[i] / *scale, dtype) : 0;
}

float ReferenceValue(uint8_t code, DType dtype) {
  return dtype == DType::kF8E4M3 ? ToFloat(F8E4M3{code}) : static_cast<float>(static_cast<int8_t>(code));
}

void Store(float value, DType dtype, void* out, int64_t i) {
  if (dtype == DType::kF32) static_cast<float*>(out)[i] = value;
  if (dtype == DType::kBF16) static_cast<BF16*>(out)[i] = ToBF16(value);
}

using QuantiseBlockFn = void (*)(const float* x, int64_t size, DType dtype, uint8_t* codes, float* scale);
using WidenBlockFn = void (*)(const uint8_t* codes, int64_t size, DType dtype, float scale, float* out);

void ReferenceWidenBlock(const uint8_t* codes, int64_t size, DType dtype, float scale, float* out) {
  for (int64_t i = 0; i < size; ++i) out[i] = ReferenceValue(codes[i], dtype) * scale;
}

void QuantiseRange(const QuantiseRowsArgs& a, QuantiseBlockFn quantise, int64_t begin, int64_t end) {
  const int64_t hidden = a.src.cols, row_bytes = RowBytes(a.dtype, hidden);
  for (int64_t r = begin; r < end; ++r) {
    const void* src = a.src.row(a.idx[r]);
    uint8_t *codes = static_cast<uint8_t*>(a.out) + r * row_bytes, *scales = codes + hidden;
    for (int64_t b = 0; b < NumBlocks(hidden); ++b) {
      const int64_t at = b * kScaleBlock, size = std::min(kScaleBlock, hidden - at);
      float scale, wide[kScaleBlock];
      const float* values = static_cast<const float*>(src) + at;
      if (a.src.dtype == DType::kBF16) {
        for (int64_t i = 0; i < size; ++i) wide[i] = ToFloat(static_cast<const BF16*>(src)[at + i]);
        values = wide;
      }
      quantise(values, size, a.dtype, codes + at, &scale);
      std::memcpy(scales + b * sizeof(float), &scale, sizeof(float));
    }
  }
}

void WidenRange(const WidenRowsArgs& a, WidenBlockFn widen, int64_t begin, int64_t end) {
  const int64_t row_bytes = RowBytes(a.dtype, a.hidden);
  for (int64_t r = begin; r < end; ++r) {
    const uint8_t *codes = static_cast<const uint8_t*>(a.rows) + r * row_bytes, *scales = codes + a.hidden;
    for (int64_t b = 0; b < NumBlocks(a.hidden); ++b) {
      const int64_t at = b * kScaleBlock, size = std::min(kScaleBlock, a.hidden - at);
      float scale, values[kScaleBlock];
      std::memcpy(&scale, scales + b * sizeof(float), sizeof(float));
      widen(codes + at, size, a.dtype, scale, values);
      for (int64_t i = 0; i < size; ++i) Store(values[i], a.out_dtype, a.out, r * a.hidden + at + i);
    }
  }
}

// The same codes without a branch per value, so that the compiler can use whole vectors.
[[gnu::always_inline]] inline uint8_t E4M3Code(float scaled) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, scaled), magnitude = bits & 0x7FFFFFFFu;
  // Normal results: round 20 bits away, ties to even, and move the exponent's bias from 127 to 7.
  const uint32_t normal = ((magnitude + 0x7FFFFu + ((magnitude >> 20) & 1u)) >> 20) - ((127u - 7u) << 3);
  // Below 2^-6: in f32, 2^14 has units of 2^-9, E4M3's smallest step; the addition rounds.
  const float shifted = __builtin_bit_cast(float, magnitude) + 0x1p14f;
  const uint32_t subnormal = __builtin_bit_cast(uint32_t, shifted) - __builtin_bit_cast(uint32_t, 0x1p14f);
  const uint32_t code = magnitude < 0x3C800000u ? subnormal : normal;
  return static_cast<uint8_t>((code > 0x7Eu ? 0x7Eu : code) | (bits >> 24 & 0x80u));
}

[[gnu::always_inline]] inline uint8_t Int8Code(float scaled) {
  const float clamped = scaled > 127.0f ? 127.0f : scaled < -127.0f ? -127.0f : scaled;
  // 1.5 * 2^23 has units of 1: the addition rounds, and the low bits are the integer.
  return static_cast<uint8_t>(__builtin_bit_cast(uint32_t, clamped + 0x1.8p23f));
}

[[gnu::always_inline]] inline void QuantiseBlock(const float* x, int64_t size, DType dtype, uint8_t* codes,
                                                 float* scale) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < size; ++i) {
    const uint32_t magnitude = __builtin_bit_cast(uint32_t, x[i]) & 0x7FFFFFFFu;
    largest = magnitude > largest ? magnitude : largest;
  }
  *scale = ScaleOf(largest, dtype);
  const float s = *scale;
  if (!(s > 0)) {
    std::memset(codes, 0, size);
  } else if (dtype == DType::kF8E4M3) {
    for (int64_t i = 0; i < size; ++i) codes[i] = E4M3Code(x[i] / s);
  } else {
    for (int64_t i = 0; i < size; ++i) codes[i] = Int8Code(x[i] / s);
  }
}

[[gnu::always_inline]] inline void WidenBlock(const uint8_t* codes, int64_t size, DType dtype, float scale,
                                              float* out) {
  if (dtype == DType::kI8) {
    for (int64_t i = 0; i < size; ++i) out[i] = static_cast<float>(static_cast<int8_t>(codes[i])) * scale;
    return;
  }
  for (int64_t i = 0; i < size; ++i) {
    // Codes are never NaN: the quantiser saturates. 2^120 moves the bias; exact, also for subnormals.
    const uint32_t code = codes[i];
    const float magnitude = __builtin_bit_cast(float, (code & 0x7Fu) << 20) * 0x1p120f;
    const uint32_t bits = __builtin_bit_cast(uint32_t, magnitude) | (code & 0x80u) << 24;
    out[i] = __builtin_bit_cast(float, (code & 0x7Fu) == 0x7Fu ? 0x7FC00000u | (code & 0x80u) << 24 : bits) * scale;
  }
}

void QuantiseBlockPortable(const float* x, int64_t size, DType dtype, uint8_t* codes, float* scale) {
  QuantiseBlock(x, size, dtype, codes, scale);
}
void WidenBlockPortable(const uint8_t* codes, int64_t size, DType dtype, float scale, float* out) {
  WidenBlock(codes, size, dtype, scale, out);
}

#if defined(__x86_64__)
#define TF_AVX2 [[gnu::target("avx2")]]
bool HasAvx2(Isa isa) { return isa >= Isa::kAvx2; }
#else
#define TF_AVX2
bool HasAvx2(Isa) { return false; }
#endif
TF_AVX2 void QuantiseBlockAvx2(const float* x, int64_t size, DType dtype, uint8_t* codes, float* scale) {
  QuantiseBlock(x, size, dtype, codes, scale);
}
TF_AVX2 void WidenBlockAvx2(const uint8_t* codes, int64_t size, DType dtype, float scale, float* out) {
  WidenBlock(codes, size, dtype, scale, out);
}
#undef TF_AVX2

template <class Range>
void InTasks(CpuContext& context, int64_t num_rows, int64_t hidden, const Range& range) {
  const int64_t per_task = std::max<int64_t>(1, kMinTaskValues / std::max<int64_t>(1, hidden));
  context.pool.ParallelFor((num_rows + per_task - 1) / per_task, [&](int64_t task, int) {
    range(task * per_task, std::min(num_rows, (task + 1) * per_task));
  });
}

}  // namespace

int64_t RowBytes(DType dtype, int64_t hidden) {
  const int64_t scales = IsQuantised(dtype) ? NumBlocks(hidden) * static_cast<int64_t>(sizeof(float)) : 0;
  return hidden * DTypeBytes(dtype) + scales;
}

// row_codec_ops.cu
absl::Status CudaQuantiseRows(const QuantiseRowsArgs& args, void* stream);
absl::Status CudaWidenRows(const WidenRowsArgs& args, void* stream);

const Op<QuantiseRowsArgs> kQuantiseRows{
    "quantise rows", [](const QuantiseRowsArgs& a) { QuantiseRange(a, ReferenceQuantiseBlock, 0, a.num_rows); },
    [](const QuantiseRowsArgs& a, CpuContext& context) {
      const QuantiseBlockFn quantise = HasAvx2(context.isa) ? QuantiseBlockAvx2 : QuantiseBlockPortable;
      InTasks(context, a.num_rows, a.src.cols,
              [&](int64_t begin, int64_t end) { QuantiseRange(a, quantise, begin, end); });
    },
    TF_CUDA_LAUNCHER(CudaQuantiseRows)};

const Op<WidenRowsArgs> kWidenRows{
    "widen rows",
    [](const WidenRowsArgs& a) { WidenRange(a, ReferenceWidenBlock, 0, NumLive(a.num_rows, a.live_rows)); },
    [](const WidenRowsArgs& a, CpuContext& context) {
      const WidenBlockFn widen = HasAvx2(context.isa) ? WidenBlockAvx2 : WidenBlockPortable;
      InTasks(context, NumLive(a.num_rows, a.live_rows), a.hidden,
              [&](int64_t begin, int64_t end) { WidenRange(a, widen, begin, end); });
    },
    TF_CUDA_LAUNCHER(CudaWidenRows)};

}  // namespace tokenferry

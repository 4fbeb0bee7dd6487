#include "comm/ops/row_codec_ops.h"
#include "core/device/cuda_launch.cuh"
#include "core/kernels/live_rows.h"
#include "core/kernels/store.cuh"

namespace tokenferry {
namespace {

constexpr int kWarps = 4;  // of a block; a warp works on one scale block
constexpr int kValuesPerLane = kScaleBlock / kWarpSize;
constexpr uint32_t kInfinityBits = 0x7F800000u;

// How E4M3 and int8 make codes of values, and back. kLargest is what the largest magnitude of a block becomes.
struct E4M3Code {
  static constexpr float kLargest = 448.0f;
  static __device__ uint8_t Of(float scaled) { return ToF8E4M3(scaled).bits; }
  static __device__ float Value(uint8_t code) { return ToFloat(F8E4M3{code}); }
};
struct Int8Code {
  static constexpr float kLargest = 127.0f;
  static __device__ uint8_t Of(float scaled) {
    return static_cast<uint8_t>(static_cast<int8_t>(__float2int_rn(fminf(fmaxf(scaled, -127.0f), 127.0f))));
  }
  static __device__ float Value(uint8_t code) { return static_cast<float>(static_cast<int8_t>(code)); }
};

// Scales lie behind the codes and are not aligned.
__device__ void StoreScale(float scale, uint8_t* to) {
  const uint32_t bits = internal::BitsFromFloat(scale);
  for (int i = 0; i < 4; ++i) to[i] = static_cast<uint8_t>(bits >> 8 * i);
}
__device__ float LoadScale(const uint8_t* from) {
  uint32_t bits = 0;
  for (int i = 0; i < 4; ++i) bits |= static_cast<uint32_t>(from[i]) << 8 * i;
  return internal::FloatFromBits(bits);
}

template <class Code, class T>
__global__ void QuantiseKernel(MatrixView<const T> src, const int32_t* idx, int64_t row_bytes, uint8_t* out) {
  const int lane = threadIdx.x % kWarpSize;
  const int64_t block = int64_t{blockIdx.y} * kWarps + threadIdx.x / kWarpSize, begin = block * kScaleBlock;
  if (begin >= src.cols) return;
  const T* from = src.row(idx[blockIdx.x]);
  float value[kValuesPerLane];
  uint32_t largest = 0;
  for (int i = 0; i < kValuesPerLane; ++i) {
    const int64_t at = begin + lane + i * kWarpSize;
    value[i] = at < src.cols ? ToFloat(from[at]) : 0.0f;
    largest = max(largest, internal::BitsFromFloat(value[i]) & 0x7FFFFFFFu);
  }
  for (int width = kWarpSize / 2; width > 0; width /= 2) {
    largest = max(largest, __shfl_xor_sync(kWholeWarp, largest, width));
  }
  const float scale = largest >= kInfinityBits ? internal::FloatFromBits(0x7FC00000u)
                                               : __fdiv_rn(internal::FloatFromBits(largest), Code::kLargest);
  uint8_t* codes = out + blockIdx.x * row_bytes;
  for (int i = 0; i < kValuesPerLane; ++i) {
    const int64_t at = begin + lane + i * kWarpSize;
    if (at < src.cols) codes[at] = scale > 0 ? Code::Of(__fdiv_rn(value[i], scale)) : 0;
  }
  if (lane == 0) StoreScale(scale, codes + src.cols + block * sizeof(float));
}

// A block per row that there may be.
template <class Code, class T>
__global__ void WidenKernel(const uint8_t* rows, int64_t row_bytes, int64_t hidden, const int64_t* live_rows, T* out) {
  if (!IsLive(blockIdx.x, live_rows)) return;
  const uint8_t* codes = rows + blockIdx.x * row_bytes;
  for (int64_t i = threadIdx.x; i < hidden; i += blockDim.x) {
    const float scale = LoadScale(codes + hidden + i / kScaleBlock * sizeof(float));
    // A NaN keeps its bits, as on the host.
    const float value = scale != scale ? scale : __fmul_rn(Code::Value(codes[i]), scale);
    StoreFloat(value, out[blockIdx.x * hidden + i]);
  }
}

template <class Code, class T>
absl::Status Quantise(const QuantiseRowsArgs& a, void* stream) {
  const LaunchShape shape = {a.num_rows, kWarps * kWarpSize, 0, CeilDiv(CeilDiv(a.src.cols, kScaleBlock), kWarps)};
  return LaunchKernel(QuantiseKernel<Code, T>, shape, stream, a.src.as<const T>(), a.idx, RowBytes(a.dtype, a.src.cols),
                      static_cast<uint8_t*>(a.out));
}

template <class Code, class T>
absl::Status Widen(const WidenRowsArgs& a, void* stream) {
  return LaunchKernel(WidenKernel<Code, T>, {a.num_rows, ThreadsFor(a.hidden)}, stream,
                      static_cast<const uint8_t*>(a.rows), RowBytes(a.dtype, a.hidden), a.hidden, a.live_rows,
                      static_cast<T*>(a.out));
}

}  // namespace

absl::Status CudaQuantiseRows(const QuantiseRowsArgs& a, void* stream) {
  const bool from_bf16 = a.src.dtype == DType::kBF16;
  if (a.dtype == DType::kI8) {
    return from_bf16 ? Quantise<Int8Code, BF16>(a, stream) : Quantise<Int8Code, float>(a, stream);
  }
  return from_bf16 ? Quantise<E4M3Code, BF16>(a, stream) : Quantise<E4M3Code, float>(a, stream);
}

absl::Status CudaWidenRows(const WidenRowsArgs& a, void* stream) {
  const bool to_bf16 = a.out_dtype == DType::kBF16;
  if (a.dtype == DType::kI8) return to_bf16 ? Widen<Int8Code, BF16>(a, stream) : Widen<Int8Code, float>(a, stream);
  return to_bf16 ? Widen<E4M3Code, BF16>(a, stream) : Widen<E4M3Code, float>(a, stream);
}

}  // namespace tokenferry

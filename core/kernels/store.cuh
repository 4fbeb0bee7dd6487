// Writing f32 results in the precision of their memory, and widening them again, 16 bytes at a time too.
#pragma once

#include "core/formats/scalar.h"

namespace tokenferry {

__device__ inline void StoreFloat(float x, float& to) { to = x; }
__device__ inline void StoreFloat(float x, BF16& to) { to = ToBF16(x); }

// The elements of 16 bytes.
template <class T>
inline constexpr int kVectorSize = 16 / sizeof(T);

// 16 bytes of f32, and of bf16.
__device__ inline void WidenVector(const uint4& v, float (&to)[4]) {
  to[0] = __uint_as_float(v.x), to[1] = __uint_as_float(v.y);
  to[2] = __uint_as_float(v.z), to[3] = __uint_as_float(v.w);
}
__device__ inline void WidenVector(const uint4& v, float (&to)[8]) {
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 8; ++i) to[i] = ToFloat(BF16{static_cast<uint16_t>(words[i / 2] >> i % 2 * 16)});
}

// 4 or 8 elements, at a multiple of their size or of 16 bytes, whichever is less.
template <int kSize>
__device__ inline void StoreVector(const float (&x)[kSize], float* to) {
#pragma unroll
  for (int i = 0; i < kSize; i += 4) {
    *reinterpret_cast<float4*>(to + i) = make_float4(x[i], x[i + 1], x[i + 2], x[i + 3]);
  }
}
template <int kSize>
__device__ inline void StoreVector(const float (&x)[kSize], BF16* to) {
#pragma unroll
  for (int i = 0; i < kSize; i += 4) {
    uint32_t words[2];
#pragma unroll
    for (int w = 0; w < 2; ++w) {
      words[w] = static_cast<uint32_t>(ToBF16(x[i + 2 * w]).bits) | static_cast<uint32_t>(ToBF16(x[i + 2 * w + 1]).bits)
                                                                        << 16;
    }
    *reinterpret_cast<uint2*>(to + i) = make_uint2(words[0], words[1]);
  }
}

}  // namespace tokenferry

// The instructions of tensor cores that kernels are made of: mma.sync.m16n8k16, bf16 inputs, f32 sums (from A100 on).
//
// Thread l of a warp is in group l / 4, at place l % 4 of a quad. It holds of a 16 x 8 result rows group and group + 8,
// columns 2 place and 2 place + 1: d[0], d[1] and d[2], d[3]. Both inputs may be read by LoadMatrices from 16-byte
// chunks of rows in shared memory.
#pragma once

#include <cstdint>

#include "core/formats/scalar.h"
#include "core/kernels/copy_async.cuh"

namespace tokenferry {

__device__ inline uint32_t PackBF16(float low, float high) {
  return static_cast<uint32_t>(ToBF16(low).bits) | static_cast<uint32_t>(ToBF16(high).bits) << 16;
}

// d += a b: a [16, 16], b [16, 8].
__device__ inline void Mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four matrices of 8 x 8 bf16: thread l gives the address of row l % 8 of matrix l / 8, and gets of each matrix columns
// 2 place and 2 place + 1 of row `group`.
__device__ inline void LoadMatrices(uint32_t (&r)[4], uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared)
               : "memory");
}
// The same of their transposes.
__device__ inline void LoadTransposed(uint32_t (&r)[4], uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared)
               : "memory");
}

}  // namespace tokenferry

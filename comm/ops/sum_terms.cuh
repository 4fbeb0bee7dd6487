// The sum over a token's outputs, which lie in several places, by the threads of a block.
#pragma once

#include "core/device/cuda_launch.cuh"
#include "core/formats/tensor.h"
#include "core/kernels/store.cuh"

namespace tokenferry {

// How many columns SumTerms may read 16 bytes at a time: none where rows do not lie at multiples of that.
template <class In, class Out>
int64_t VectorCols(const In* rows, int64_t row_stride, const MatrixView<Out>& out) {
  constexpr int kSize = kVectorSize<In>;
  const auto is_aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  const bool whole = is_aligned(rows) && is_aligned(out.data) && row_stride % kSize == 0 && out.stride % kSize == 0;
  return whole ? out.cols / kSize * kSize : 0;
}

// Threads for a block of it.
template <class In>
int SumThreads(int64_t cols, int64_t vector_cols) {
  return ThreadsFor(vector_cols > 0 ? vector_cols / kVectorSize<In> : cols);
}

// to[c] = fma chain from 0 over i < num_terms of weight(i) * row(i)[c], in that order, for all c < cols; rounded once
// where `to` is bf16. row(i) may be memory of another GPU: kAhead loads of a thread are under way at once.
template <class In, class Out, class Weight, class Row>
__device__ void SumTerms(int num_terms, const Weight& weight, const Row& row, int64_t cols, int64_t vector_cols,
                         Out* to) {
  constexpr int kSize = kVectorSize<In>, kAhead = 8;
  for (int64_t c = int64_t{threadIdx.x} * kSize; c < vector_cols; c += int64_t{blockDim.x} * kSize) {
    float sums[kSize] = {};
    for (int first = 0; first < num_terms; first += kAhead) {
      uint4 loaded[kAhead] = {};
      float weights[kAhead] = {};
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (first + i >= num_terms) continue;
        loaded[i] = *reinterpret_cast<const uint4*>(row(first + i) + c);
        weights[i] = weight(first + i);
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (first + i >= num_terms) continue;  // even nothing times nothing would change a sum of -0
        float x[kSize];
        WidenVector(loaded[i], x);
#pragma unroll
        for (int e = 0; e < kSize; ++e) sums[e] = __fmaf_rn(weights[i], x[e], sums[e]);
      }
    }
    StoreVector(sums, to + c);
  }
  for (int64_t c = vector_cols + threadIdx.x; c < cols; c += blockDim.x) {
    float sum = 0.0f;
    for (int i = 0; i < num_terms; ++i) sum = __fmaf_rn(weight(i), ToFloat(row(i)[c]), sum);
    StoreFloat(sum, to[c]);
  }
}

}  // namespace tokenferry

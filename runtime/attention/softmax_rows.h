// The online softmax that both attentions of the CPU compute: query rows that meet block after block of keys.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>

#include "core/kernels/scratch.h"
#include "runtime/attention/attention_ops.h"
#include "runtime/ops/row_kernels.h"

namespace tokenferry::attention_cpu {

constexpr int64_t kQueriesPerTask = 32;  // (token, head) pairs that share a walk over the keys

// Of this thread, until it asks again.
inline float* ScratchFloats(int64_t size) { return static_cast<float*>(ThreadScratch(size * sizeof(float))); }

class SoftmaxRows {
 public:
  static int64_t NumFloats(int64_t num_rows, int64_t key_dim, int64_t value_dim) {
    return num_rows * (key_dim + value_dim + kCacheBlockTokens + 3);
  }

  // Lives in `memory`, NumFloats of them, none of which need a value.
  SoftmaxRows(const RowKernels& kernels, int64_t num_rows, int64_t key_dim, int64_t value_dim, float scale,
              float* memory)
      : kernels_(kernels), key_dim_(key_dim), value_dim_(value_dim), scale_(scale) {
    const auto take = [&memory](int64_t size) { return std::exchange(memory, memory + size); };
    queries_ = take(num_rows * key_dim);
    acc_ = take(num_rows * value_dim);
    scores_ = take(num_rows * kCacheBlockTokens);
    max_ = take(num_rows);
    sum_ = take(num_rows);
    rescale_ = take(num_rows);
    std::fill_n(acc_, num_rows * value_dim, 0.0f);
    std::fill_n(max_, num_rows, -std::numeric_limits<float>::infinity());
    std::fill_n(sum_, num_rows, 0.0f);
  }

  // [key_dim], to be written before the first Visit.
  float* query(int64_t row) { return queries_ + row * key_dim_; }

  // The row begins as if it had met a key of this score and a value of zeros.
  void BeginWithSink(int64_t row, float score) {
    max_[row] = score;
    sum_[row] = 1.0f;
  }

  // Rows [begin, end), which all see these keys: at most a cache block of them. `adjust` may change a row's products
  // with the keys, before they are scaled: (row, products, number of keys).
  template <class Adjust>
  void Visit(Rows keys, Rows values, int64_t begin, int64_t end, const Adjust& adjust) {
    float* scores = scores_ + begin * kCacheBlockTokens;
    kernels_.dot({query(begin), end - begin, key_dim_}, keys, key_dim_, scores, kCacheBlockTokens);
    for (int64_t row = begin; row < end; ++row) {
      adjust(row, scores_ + row * kCacheBlockTokens, keys.num_rows);
      const float block_sum =
          kernels_.softmax_block(scores_ + row * kCacheBlockTokens, keys.num_rows, scale_, &max_[row], &rescale_[row]);
      sum_[row] = std::fma(sum_[row], rescale_[row], block_sum);
    }
    kernels_.weighted_sum({scores, end - begin, kCacheBlockTokens}, values, value_dim_, rescale_ + begin,
                          acc_ + begin * value_dim_, value_dim_);
  }

  void Visit(Rows keys, Rows values, int64_t begin, int64_t end) {
    Visit(keys, values, begin, end, [](int64_t, float*, int64_t) {});
  }

  // out [value_dim]; zeros where the row has met no key, as where there is no token.
  void Store(int64_t row, float* out) const {
    const float sum = sum_[row] == 0 ? 1.0f : sum_[row];
    for (int64_t i = 0; i < value_dim_; ++i) out[i] = acc_[row * value_dim_ + i] / sum;
  }

 private:
  const RowKernels& kernels_;
  const int64_t key_dim_, value_dim_;
  const float scale_;
  float *queries_, *acc_, *scores_, *max_, *sum_, *rescale_;
};

}  // namespace tokenferry::attention_cpu

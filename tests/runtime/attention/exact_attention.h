// Attention of one query in double, and how far a result of bf16 tensor cores may be from it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#include "runtime/attention/attention_mma.h"
#include "tests/support/cuda_compare.h"

namespace tokenferry {

struct ExactAttention {
  std::vector<double> context, bound;  // [columns]
};

// One query's attention: numbers as they enter the products, by number of the key among those that it sees.
struct AttentionQuery {
  int64_t num_keys = 0, width = 0, num_columns = 0;
  double scale = 1;
  std::function<double(int64_t)> query;                // [width]
  std::function<double(int64_t, int64_t)> key, value;  // [num_keys, width], [num_keys, num_columns]
  std::function<double(int64_t)> bias = [](int64_t) { return 0.0; };
  bool has_sink = false;
  double sink = 0;
};

// A score's 16 products per instruction are exact, and are added with one rounding of 2^-23 of the sum of magnitudes;
// two more for the order inside; bias and scale round once each. That, and what exp (2 ulp), its argument and the
// rescaling by each block and split add, are relative errors of a weight, of numerator and of denominator: eta each. In
// the numerator weights are rounded to bf16 besides, 2^-8. What adds up is rounded as the scores are, in the numerator,
// and key by key in the denominator.
inline ExactAttention AttendExactly(const AttentionQuery& q) {
  const auto num_keys = static_cast<double>(q.num_keys);
  // What is rescaled and added: blocks and splits, of which the first may be cut.
  const double num_parts = std::ceil(num_keys / kCacheBlockTokens) + 1 + std::ceil(num_keys / kSplitKeys) + 1;
  const double roundings = (static_cast<double>(q.width) / 16 + 5) * 0x1p-23;
  std::vector<double> score;
  double max = q.has_sink ? q.sink : -INFINITY, min = q.has_sink ? q.sink : INFINITY, off = 0;
  for (int64_t j = 0; j < q.num_keys; ++j) {
    double sum = q.bias(j), magnitude = std::fabs(sum);
    for (int64_t i = 0; i < q.width; ++i) {
      const double product = q.query(i) * q.key(j, i);
      sum += product, magnitude += std::fabs(product);
    }
    score.push_back(sum * q.scale);
    max = std::max(max, score.back()), min = std::min(min, score.back());
    off = std::max(off, q.scale * roundings * magnitude);
  }
  const double range = q.num_keys == 0 ? 0 : max - min;
  const double eta = 2 * off + (num_parts + 1) * (2 * 0x1p-23 + (range + 2 * off) * 0x1p-24 + 0x1p-24);
  const double sums = (num_keys / 16 + 3 + 3 * num_parts) * 0x1p-23 + (num_keys + 3) * 0x1p-24;
  ExactAttention exact{std::vector<double>(q.num_columns), std::vector<double>(q.num_columns)};
  double all = q.has_sink ? std::exp(q.sink - max) : 0;
  for (int64_t j = 0; j < q.num_keys; ++j) {
    const double weight = std::exp(score[j] - max);
    all += weight;
    for (int64_t i = 0; i < q.num_columns; ++i) {
      exact.context[i] += weight * q.value(j, i);
      exact.bound[i] += weight * std::fabs(q.value(j, i));
    }
  }
  for (int64_t i = 0; i < q.num_columns && all > 0; ++i) {
    exact.context[i] /= all;
    exact.bound[i] *= ((1 + 0x1p-8) * std::exp(2 * eta) - 1 + sums) * 1.001 / all;
  }
  return exact;
}

// Whether `got`, what an OpRun gave of out [num_tokens, num_heads, num_columns], is near exactly(token, head), and
// nothing was written behind it.
template <class Exactly>
void ExpectNear(const std::vector<uint8_t>& got, int64_t num_tokens, int64_t num_heads, int64_t num_columns,
                const Exactly& exactly) {
  ASSERT_EQ(got.size(), num_tokens * num_heads * num_columns * sizeof(float) + OpRun::kGuardBytes);
  for (int64_t t = 0; t < num_tokens; ++t) {
    for (int64_t h = 0; h < num_heads; ++h) {
      const ExactAttention exact = exactly(t, h);
      for (int64_t i = 0; i < num_columns; ++i) {
        float out;
        std::memcpy(&out, &got[((t * num_heads + h) * num_columns + i) * sizeof(float)], sizeof(float));
        ASSERT_LE(std::fabs(out - exact.context[i]), exact.bound[i])
            << "token " << t << ", head " << h << ", column " << i << ": " << out << ", want " << exact.context[i];
      }
    }
  }
  const std::vector<uint8_t> guard(OpRun::kGuardBytes, 0xEE);
  EXPECT_TRUE(std::equal(guard.begin(), guard.end(), got.end() - OpRun::kGuardBytes)) << "behind the end";
}

}  // namespace tokenferry

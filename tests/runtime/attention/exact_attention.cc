#include "tests/runtime/attention/exact_attention.h"

#include "runtime/attention/attention_mma.h"

namespace tokenferry {

ExactAttention AttendExactly(const AttentionQuery& q) {
  const auto num_keys = static_cast<double>(q.num_keys);
  // What is rescaled and added: blocks and splits, of which the first may be cut.
  const double num_parts = std::ceil(num_keys / kCacheBlockTokens) + 1 + std::ceil(num_keys / kSplitKeys) + 1;
  const double roundings = (static_cast<double>(q.query.size()) / 16 + 5) * 0x1p-23;
  std::vector<double> score;
  double max = q.has_sink ? q.sink : -INFINITY, min = q.has_sink ? q.sink : INFINITY, off = 0;
  for (int64_t j = 0; j < q.num_keys; ++j) {
    double sum = q.bias(j), magnitude = std::fabs(sum);
    const BF16* const key = q.key(j);
    for (size_t i = 0; i < q.query.size(); ++i) {
      const double product = q.query[i] * ToFloat(key[i]);
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
    const BF16* const value = q.value(j);
    for (int64_t i = 0; i < q.num_columns; ++i) {
      exact.context[i] += weight * ToFloat(value[i]);
      exact.bound[i] += weight * std::fabs(ToFloat(value[i]));
    }
  }
  for (int64_t i = 0; i < q.num_columns && all > 0; ++i) {
    exact.context[i] /= all;
    exact.bound[i] *= ((1 + 0x1p-8) * std::exp(2 * eta) - 1 + sums) * 1.001 / all;
  }
  return exact;
}

}  // namespace tokenferry

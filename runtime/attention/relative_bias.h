// Relative position biases as T5 has them (arXiv:1910.10683): distances fall into buckets, near ones each into their
// own, far ones into ever wider ones, and each head has a number for every bucket.
#pragma once

#include <cstdint>
#include <vector>

namespace tokenferry {

struct RelativeBuckets {
  int64_t num_buckets = 0;   // 0: there is no bias. kBoth: even
  int64_t max_distance = 0;  // from here on all is one bucket; more than the distances that have buckets of their own
  enum class Sides : uint8_t {
    kBefore,  // keys up to the query's position; those behind it count as its own
    kBoth,    // half of the buckets for keys behind it
  };
  Sides sides = Sides::kBefore;

  friend bool operator==(const RelativeBuckets&, const RelativeBuckets&) = default;
  int64_t num_per_side() const { return sides == Sides::kBoth ? num_buckets / 2 : num_buckets; }
};

// Of a key at that distance from its query, offset = key - query: with B buckets for a side, m = B / 2 and n the
// distance, n where n < m, else min(B - 1, m + trunc(ln(n / m) / ln(max_distance / m) * (B - m))), in f32 as
// transformers computes it.
int64_t BucketOf(const RelativeBuckets& buckets, int64_t offset);

// RelativeBias::values with reach max_distance, of the table [num_buckets, num_heads] that a model has.
std::vector<float> RelativeBiasValues(const RelativeBuckets& buckets, const std::vector<float>& table,
                                      int64_t num_heads);

}  // namespace tokenferry

// The tokens of a vocabulary by falling score, ties to the lower id, without sorting it: what top-k, top-p and the draw
// ask for are places in that order.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace tokenferry {

// Weights are whole numbers, 1 << kWeightBits for the likeliest token, so that their sums are the same in any order and
// places do not depend on how they are found. What is less likely than 2^-43 of the likeliest has no weight and is not
// in the order; a uniform random number has 53 bits.
class TokenOrder {
 public:
  static constexpr int kWeightBits = 42;
  static constexpr int64_t kMaxTokens = int64_t{1} << (63 - kWeightBits);

  // relative[i] in [0, 1] is exp((scores[i] - the largest score) / temperature). One pass over both; `scores` must stay
  // as they are until the next call. At most kMaxTokens, at least one of them with weight.
  void Assign(absl::Span<const double> scores, absl::Span<const double> relative);

  uint64_t total() const { return total_; }  // of all weights
  static uint64_t Weight(double relative) {
    return static_cast<uint64_t>(relative * static_cast<double>(uint64_t{1} << kWeightBits) + 0.5);
  }

  // The end of a beginning of the order.
  struct Place {
    int32_t token = -1;   // its last token
    uint64_t weight = 0;  // of all its tokens
  };
  // The shortest beginning that weighs at least `weight`, from 1 to total().
  Place AtWeight(uint64_t weight) const;
  // The beginning of `count` tokens; of all, when there are not so many.
  Place AtCount(int64_t count) const;
  // All tokens together that weigh at least `weight` each.
  uint64_t WeightOfThoseFrom(uint64_t weight) const;

 private:
  struct Item {
    double score;
    uint64_t weight;
    int32_t token;
  };
  struct Sum {
    uint64_t weight = 0;
    int64_t count = 0;
  };
  static constexpr int kNumBuckets = 1024;

  struct Bucket {
    int idx = 0;
    Sum before;  // of all tokens before its first
  };

  template <class Reached>
  static Bucket FindBucket(absl::Span<const Sum> sums, Sum before, Reached reached);
  template <class Reached>
  static Place Walk(absl::Span<const Item> items, Sum before, Reached reached);
  template <class Reached>
  Place Find(Reached reached) const;

  uint64_t total_ = 0;
  absl::Span<const double> scores_;
  std::vector<uint64_t> weights_;
  std::vector<uint16_t> bucket_per_token_;  // by falling score; kNumBuckets: no weight
  std::array<Sum, kNumBuckets + 1> buckets_;
};

}  // namespace tokenferry

#include "runtime/engine/token_order.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"

namespace tokenferry {
namespace {

// Buckets that cut [low, high] evenly, the highest scores first. Subtraction, product and rounding down keep an order,
// so that a bucket's scores are all above those of the next.
class Buckets {
 public:
  Buckets(double low, double high, int count) : high_(high), last_(count - 1) {
    // A range below the smallest normal number would make an infinite factor.
    factor_ = high - low > 1e-300 ? count / (high - low) : 0;
  }
  int Of(double score) const { return std::min(static_cast<int>((high_ - score) * factor_), last_); }

 private:
  double high_, factor_;
  int last_;
};

constexpr size_t kFewItems = 48;  // fewer are sorted

}  // namespace

void TokenOrder::Assign(absl::Span<const double> scores, absl::Span<const double> relative) {
  TF_CHECK_EQ(scores.size(), relative.size());
  TF_CHECK_LE(static_cast<int64_t>(scores.size()), kMaxTokens);
  scores_ = scores;
  weights_.resize(scores.size());
  bucket_per_token_.resize(scores.size());
  buckets_ = {};
  double low = INFINITY, high = -INFINITY;
  for (size_t i = 0; i < scores.size(); ++i) {
    weights_[i] = Weight(relative[i]);
    const bool counts = weights_[i] > 0;
    low = std::min(low, counts ? scores[i] : INFINITY);
    high = std::max(high, counts ? scores[i] : -INFINITY);
  }
  TF_CHECK_LE(low, high);
  const Buckets cut(low, high, kNumBuckets);
  for (size_t i = 0; i < scores.size(); ++i) {
    const int bucket = weights_[i] > 0 ? cut.Of(scores[i]) : kNumBuckets;
    bucket_per_token_[i] = static_cast<uint16_t>(bucket);
    buckets_[bucket].weight += weights_[i];
    buckets_[bucket].count += 1;
  }
  total_ = 0;
  for (int b = 0; b < kNumBuckets; ++b) total_ += buckets_[b].weight;
}

// The first bucket with tokens behind which reached(sum of all tokens so far) is true, or the last one with tokens.
template <class Reached>
TokenOrder::Bucket TokenOrder::FindBucket(absl::Span<const Sum> sums, Sum before, Reached reached) {
  Bucket found;
  for (size_t b = 0; b < sums.size(); ++b) {
    if (sums[b].count == 0) continue;
    found = {static_cast<int>(b), before};
    before = {before.weight + sums[b].weight, before.count + sums[b].count};
    if (reached(before)) break;
  }
  return found;
}

// Through items that are in order.
template <class Reached>
TokenOrder::Place TokenOrder::Walk(absl::Span<const Item> items, Sum before, Reached reached) {
  Place place;
  for (const Item& item : items) {
    before = {before.weight + item.weight, before.count + 1};
    place = {item.token, before.weight};
    if (reached(before)) break;
  }
  return place;
}

template <class Reached>
TokenOrder::Place TokenOrder::Find(Reached reached) const {
  const Bucket found = FindBucket(absl::MakeConstSpan(buckets_).first(kNumBuckets), Sum(), reached);
  std::vector<Item> items;  // of the bucket, by rising token
  items.reserve(buckets_[found.idx].count);
  for (size_t i = 0; i < bucket_per_token_.size(); ++i) {
    if (bucket_per_token_[i] == found.idx) items.push_back({scores_[i], weights_[i], static_cast<int32_t>(i)});
  }
  Sum before = found.before;
  // Narrowed down to few, or to equal ones, which are in order already.
  while (items.size() > kFewItems) {
    double low = INFINITY, high = -INFINITY;
    for (const Item& item : items) low = std::min(low, item.score), high = std::max(high, item.score);
    if (low == high) return Walk(items, before, reached);
    const Buckets cut(low, high, kNumBuckets);
    std::array<Sum, kNumBuckets> sums = {};
    for (const Item& item : items) {
      Sum& sum = sums[cut.Of(item.score)];
      sum.weight += item.weight, sum.count += 1;
    }
    const Bucket part = FindBucket(sums, before, reached);
    if (sums[part.idx].count == static_cast<int64_t>(items.size())) break;
    before = part.before;
    std::erase_if(items, [&](const Item& item) { return cut.Of(item.score) != part.idx; });
  }
  std::stable_sort(items.begin(), items.end(), [](const Item& a, const Item& b) { return a.score > b.score; });
  return Walk(items, before, reached);
}

TokenOrder::Place TokenOrder::AtWeight(uint64_t weight) const {
  return Find([weight](const Sum& sum) { return sum.weight >= weight; });
}

TokenOrder::Place TokenOrder::AtCount(int64_t count) const {
  return Find([count](const Sum& sum) { return sum.count >= count; });
}

uint64_t TokenOrder::WeightOfThoseFrom(uint64_t weight) const {
  uint64_t sum = 0;
  for (const uint64_t w : weights_) sum += w >= weight ? w : 0;
  return sum;
}

}  // namespace tokenferry

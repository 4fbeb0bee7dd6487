#include "runtime/attention/relative_bias.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "core/check.h"

namespace tokenferry {

int64_t BucketOf(const RelativeBuckets& buckets, int64_t offset) {
  const bool both = buckets.sides == RelativeBuckets::Sides::kBoth;
  const int64_t side = buckets.num_per_side(), first = both && offset > 0 ? side : 0;
  const int64_t distance = both ? std::abs(offset) : std::max<int64_t>(-offset, 0);
  const int64_t num_exact = side / 2;
  if (distance < num_exact) return first + distance;
  const float ratio = static_cast<float>(distance) / static_cast<float>(num_exact);
  const auto log_range =
      static_cast<float>(std::log(static_cast<double>(buckets.max_distance) / static_cast<double>(num_exact)));
  // libm's double logarithm, rounded: the same on every machine.
  const auto log_ratio = static_cast<float>(std::log(static_cast<double>(ratio)));
  const float steps = log_ratio / log_range * static_cast<float>(side - num_exact);
  return first + std::min(side - 1, num_exact + static_cast<int64_t>(steps));
}

std::vector<float> RelativeBiasValues(const RelativeBuckets& buckets, const std::vector<float>& table,
                                      int64_t num_heads) {
  TF_CHECK_EQ(static_cast<int64_t>(table.size()), buckets.num_buckets * num_heads);
  std::vector<float> values;
  const int64_t reach = buckets.max_distance;
  for (int64_t head = 0; head < num_heads; ++head) {
    for (int64_t offset = -reach; offset <= reach; ++offset) {
      values.push_back(table[BucketOf(buckets, offset) * num_heads + head]);
    }
  }
  return values;
}

}  // namespace tokenferry

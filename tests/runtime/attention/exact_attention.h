// Attention of one query in double, and how far a result of bf16 tensor cores may be from it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#include "tests/support/cuda_compare.h"

namespace tokenferry {

struct ExactAttention {
  std::vector<double> context, bound;  // [columns]
};

// One query's attention: numbers as they enter the products, by number of the key among those that it sees.
struct AttentionQuery {
  int64_t num_keys = 0, num_columns = 0;
  double scale = 1;
  std::vector<double> query;
  std::function<const BF16*(int64_t)> key, value;  // of each key, as long as `query`, and [num_columns]
  std::function<double(int64_t)> bias = [](int64_t) { return 0.0; };
  bool has_sink = false;
  double sink = 0;
};

// A score's 16 products per instruction are exact, and are added with one rounding of 2^-23 of the sum of magnitudes;
// two more for the order inside; bias and scale round once each. That, and what exp (2 ulp), its argument and the
// rescaling by each block and split add, are relative errors of a weight, of numerator and of denominator: eta each. In
// the numerator weights are rounded to bf16 besides, 2^-8. What adds up is rounded as the scores are, in the numerator,
// and key by key in the denominator.
ExactAttention AttendExactly(const AttentionQuery& q);

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

#include <limits>

#include "runtime/ops/scan_logits.h"
#include "tests/support/cuda_compare.h"

namespace tokenferry {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

class ScanLogitsCudaTest : public CudaCompareTest {
 protected:
  // Rows of `cols` logits that `change` may spoil, with candidates from none to more than there are tokens.
  void Check(int64_t num_rows, int64_t cols, const std::function<void(std::vector<float>&, std::mt19937&)>& change,
             int num_seeds) {
    SCOPED_TRACE(testing::Message() << num_rows << " rows of " << cols);
    const auto op_case = [&](OpRun& run) {
      const int64_t stride = cols + run.rng()() % 3;
      std::vector<float> logits = NormalFloats(run.rng(), num_rows * stride, 5);
      change(logits, run.rng());
      const std::vector<int32_t> sizes = {0, 1, 2, 5, kMaxLogitCandidates};
      std::vector<int32_t> num_candidates;
      for (int64_t t = 0; t < num_rows; ++t) num_candidates.push_back(sizes[run.rng()() % sizes.size()]);
      ScanLogits(run.stream(), {{run.Input(logits), num_rows, cols, stride},
                                run.Input(num_candidates),
                                run.Output<LogitSummary>("summary", num_rows)});
    };
    ExpectSameBits(op_case, num_seeds);
  }
};

TEST_F(ScanLogitsCudaTest, Normal) {
  for (const int64_t num_rows : {0, 1, 3}) {
    for (const int64_t cols : {1, 31, 1024, 1025, 5003})
      Check(
          num_rows, cols, [](auto&, auto&) {}, 10);
  }
}

TEST_F(ScanLogitsCudaTest, ManyEqualOnesAndThoseThatAreRuledOut) {
  const auto coarse = [](std::vector<float>& logits, std::mt19937& rng) {
    for (float& x : logits) x = rng() % 3 == 0 ? kNever : static_cast<float>(rng() % 4);
  };
  for (const int64_t cols : {2, 1030, 2100}) Check(3, cols, coarse, 10);
  Check(
      2, 70, [](std::vector<float>& logits, auto&) { logits.assign(logits.size(), kNever); }, 3);
}

TEST_F(ScanLogitsCudaTest, BadOnes) {
  const auto spoil = [](std::vector<float>& logits, std::mt19937& rng) {
    for (int i = 0; i < 3; ++i) {
      logits[rng() % logits.size()] = i == 1 ? -kNever : std::numeric_limits<float>::quiet_NaN();
    }
  };
  for (const int64_t cols : {1, 40, 3000}) Check(3, cols, spoil, 10);
}

}  // namespace
}  // namespace tokenferry

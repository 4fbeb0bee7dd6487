// Which keys an indexer selects, and latent attention over them: the kernels against the reference bit for bit, any cut
// against the whole, and the formulas in double precision.
#include "runtime/attention/key_selection.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/formats/scalar.h"
#include "tests/support/device_cases.h"

namespace tokenferry {
namespace {

constexpr unsigned kSelectionSeed = 47;

struct SelectionCase {
  int32_t heads;
  int64_t dim, num_selected, length;
};
constexpr SelectionCase kSelectionCases[] = {{1, 4, 1, 9}, {3, 20, 70, 150}, {16, 16, 12, 131}};
constexpr int32_t kSparseHeads = 5, kSparseNope = 3, kSparseRope = 4, kSparseLatent = 10;

// One sequence: an indexer's inputs, and those of latent attention over what it selects.
class SelectionProblem {
 public:
  explicit SelectionProblem(const SelectionCase& c) : c_(c) {
    std::mt19937 rng(kSelectionSeed);
    q_ = RandomNormal(rng, c.length * c.heads * c.dim);
    weight_ = RandomNormal(rng, c.length * c.heads);
    keys_ = RandomNormal(rng, c.length * c.dim);
    // Every third key is the one before it: equal scores.
    for (int64_t j = 2; j < c.length; j += 3) {
      std::copy_n(keys_.begin() + (j - 1) * c.dim, c.dim, keys_.begin() + j * c.dim);
    }
    query_ = RandomNormal(rng, c.length * kSparseHeads * (kSparseNope + kSparseRope));
    q_latent_ = RandomNormal(rng, c.length * kSparseHeads * kSparseLatent);
    rows_ = RandomNormal(rng, c.length * (kSparseLatent + kSparseRope));
  }

  struct Result {
    std::vector<int32_t> selected;  // [length, num_selected]
    std::vector<float> context;     // [length, heads, latent]
  };

  // Tokens in steps of `chunk`. Blocks are in falling order, and NaN where no token has written.
  Result Run(const CpuDeviceOptions& options, int64_t chunk, DType dtype, bool select = true) const {
    TestDevice device(options);
    const int64_t num_blocks = CacheBlocks(c_.length);
    std::vector<int32_t> table(num_blocks);
    std::iota(table.rbegin(), table.rend(), 0);
    const Buffer table_buf = device.Upload(table);
    const auto cache_of = [&](int64_t width) {
      return device.Upload(std::vector<float>(num_blocks * kCacheBlockTokens * width, NAN));
    };
    const Buffer index_cache = cache_of(c_.dim), cache = cache_of(kSparseLatent + kSparseRope);
    const auto view = [&](const Buffer& buffer, int64_t first, int64_t second) {
      return CacheView{buffer.data(), dtype, first, second, table_buf.as<int32_t>(), num_blocks};
    };
    const CacheView keys = view(index_cache, c_.dim, 0), rows = view(cache, kSparseLatent, kSparseRope);
    const Compute compute = dtype == DType::kF32 ? Compute::kF32 : Compute::kBF16;
    Result result;
    for (int64_t begin = 0; begin < c_.length; begin += chunk) {
      const int64_t n = std::min(chunk, c_.length - begin);
      const auto part = [&](const std::vector<float>& all) {
        const int64_t width = static_cast<int64_t>(all.size()) / c_.length;
        return device.Upload(std::vector<float>(all.begin() + begin * width, all.begin() + (begin + n) * width));
      };
      std::vector<int32_t> position(n);
      std::iota(position.begin(), position.end(), static_cast<int32_t>(begin));
      const Buffer seq = device.Upload(std::vector<int32_t>(n, 0)), position_buf = device.Upload(position);
      const TokenPositions tokens{seq.as<int32_t>(), position_buf.as<int32_t>(), n};
      const Buffer q = part(q_), weight = part(weight_), key = part(keys_), row = part(rows_);
      const Buffer query = part(query_), q_latent = part(q_latent_);
      const Buffer selected = device.Allocate<int32_t>(n * c_.num_selected);
      const Buffer context = device.Allocate<float>(n * kSparseHeads * kSparseLatent);
      CacheWrite(device.stream(), {key.as<float>(), c_.dim, nullptr, 0, tokens, keys});
      constexpr int64_t kWidth = kSparseLatent + kSparseRope;
      CacheWrite(device.stream(), {row.as<float>(), kWidth, row.as<float>() + kSparseLatent, kWidth, tokens, rows});
      SelectKeys(device.stream(), {.q = q.as<float>(),
                                   .weight = weight.as<float>(),
                                   .heads = c_.heads,
                                   .num_selected = c_.num_selected,
                                   .tokens = tokens,
                                   .keys = keys,
                                   .selected = selected.as<int32_t>(),
                                   .compute = compute});
      LatentAttention(device.stream(), {.q_latent = q_latent.as<float>(),
                                        .q = query.as<float>(),
                                        .heads = kSparseHeads,
                                        .nope = kSparseNope,
                                        .rope = kSparseRope,
                                        .scale = 0.5f,
                                        .tokens = tokens,
                                        .cache = rows,
                                        .out = context.as<float>(),
                                        .compute = compute,
                                        .selected = select ? selected.as<int32_t>() : nullptr,
                                        .num_selected = select ? c_.num_selected : 0});
      const auto more_selected = device.Download<int32_t>(selected);
      const auto more_context = device.Download<float>(context);
      result.selected.insert(result.selected.end(), more_selected.begin(), more_selected.end());
      result.context.insert(result.context.end(), more_context.begin(), more_context.end());
    }
    return result;
  }

  double Score(int64_t t, int64_t j) const {
    double sum = 0;
    for (int64_t h = 0; h < c_.heads; ++h) {
      double dot = 0;
      for (int64_t i = 0; i < c_.dim; ++i) {
        dot += static_cast<double>(q_[(t * c_.heads + h) * c_.dim + i]) * keys_[j * c_.dim + i];
      }
      sum += weight_[t * c_.heads + h] / std::sqrt(c_.heads) * std::max(dot / std::sqrt(c_.dim), 0.0);
    }
    return sum;
  }

  // Attention of token t's head h over these keys, in double.
  std::vector<double> Attend(int64_t t, int64_t h, const std::vector<int32_t>& keys) const {
    constexpr int64_t kWidth = kSparseLatent + kSparseRope;
    const float* latent = q_latent_.data() + (t * kSparseHeads + h) * kSparseLatent;
    const float* rope = query_.data() + (t * kSparseHeads + h) * (kSparseNope + kSparseRope) + kSparseNope;
    std::vector<double> out(kSparseLatent);
    double sum = 0;
    for (const int32_t j : keys) {
      double dot = 0;
      for (int64_t i = 0; i < kWidth; ++i) {
        dot += static_cast<double>(i < kSparseLatent ? latent[i] : rope[i - kSparseLatent]) * rows_[j * kWidth + i];
      }
      const double weight = std::exp(0.5 * dot);
      sum += weight;
      for (int64_t i = 0; i < kSparseLatent; ++i) out[i] += weight * rows_[j * kWidth + i];
    }
    for (double& x : out) x /= sum;
    return out;
  }

 private:
  const SelectionCase c_;
  std::vector<float> q_, weight_, keys_, query_, q_latent_, rows_;
};

class KeySelectionTest : public testing::TestWithParam<SelectionCase> {
 protected:
  void SetUp() override { std::printf("seed %u\n", kSelectionSeed); }
  const SelectionProblem problem_{GetParam()};
};

TEST_P(KeySelectionTest, KernelsAndCutsGiveTheReferencesBits) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const auto want = problem_.Run(ReferenceDevice(), 1'000'000, dtype);
    for (const CpuDeviceOptions& device : FastDevices()) {
      SCOPED_TRACE(testing::Message() << device << ", " << DTypeName(dtype));
      for (const int64_t chunk : {1, 7, 1'000'000}) {
        if (chunk == 1 && device.num_threads != 2) continue;
        const auto got = problem_.Run(device, chunk, dtype);
        EXPECT_EQ(got.selected, want.selected) << "chunks of " << chunk;
        EXPECT_TRUE(SameBits(got.context, want.context)) << "chunks of " << chunk;
      }
    }
  }
}

// Who sees all keys has the bits of attention without a selection.
TEST_P(KeySelectionTest, ItIsDenseUpToTheNumberSelected) {
  const SelectionCase& c = GetParam();
  const CpuDeviceOptions device = {.isa = BestIsa(SupportedIsas())};
  const auto sparse = problem_.Run(device, 50, DType::kF32), dense = problem_.Run(device, 50, DType::kF32, false);
  const int64_t size = std::min(c.num_selected, c.length) * kSparseHeads * kSparseLatent;
  EXPECT_TRUE(std::equal(sparse.context.begin(), sparse.context.begin() + size, dense.context.begin()));
  EXPECT_FALSE(SameBits(sparse.context, dense.context));
}

// Every key that is selected has a score not below that of any that is not, up to what f32 rounds of sums of some
// hundred products of order one; of two equal keys, whose scores are the same bits, the first goes before the second.
TEST_P(KeySelectionTest, AgreesWithDoublePrecision) {
  const SelectionCase& c = GetParam();
  const auto got = problem_.Run({.isa = BestIsa(SupportedIsas())}, 1'000'000, DType::kF32);
  for (int64_t t = 0; t < c.length; ++t) {
    const auto row = got.selected.begin() + t * c.num_selected;
    const std::vector<int32_t> keys(row, row + std::min(c.num_selected, t + 1));
    EXPECT_TRUE(
        std::all_of(row + static_cast<int64_t>(keys.size()), row + c.num_selected, [](int32_t j) { return j == -1; }));
    ASSERT_TRUE(std::is_sorted(keys.begin(), keys.end()));
    ASSERT_EQ(std::adjacent_find(keys.begin(), keys.end()), keys.end());
    double lowest = HUGE_VAL, highest = -HUGE_VAL;
    for (int64_t j = 0; j <= t; ++j) {
      const bool is_selected = std::binary_search(keys.begin(), keys.end(), j);
      double& bound = is_selected ? lowest : highest;
      bound = is_selected ? std::min(bound, problem_.Score(t, j)) : std::max(bound, problem_.Score(t, j));
      if (j > 0 && j % 3 == 2 && is_selected) {
        EXPECT_TRUE(std::binary_search(keys.begin(), keys.end(), j - 1)) << t << ": " << j;
      }
    }
    EXPECT_GE(lowest, highest - 1e-5) << t;
    for (int64_t h = 0; h < kSparseHeads; ++h) {
      const std::vector<double> want = problem_.Attend(t, h, keys);
      for (int64_t i = 0; i < kSparseLatent; ++i) {
        ASSERT_NEAR(got.context[(t * kSparseHeads + h) * kSparseLatent + i], want[i], 2e-5) << t;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, KeySelectionTest, testing::ValuesIn(kSelectionCases));

}  // namespace
}  // namespace tokenferry

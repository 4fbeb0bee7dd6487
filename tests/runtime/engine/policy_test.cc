// Overflow policies and narrow dispatch in the whole engine: the same bits whatever the ranks, and what they cost.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/runtime/engine/engine_runner.h"
#include "tests/support/device_cases.h"

namespace tokenferry {
namespace {

std::vector<int32_t> Text(const std::string& domain, size_t window, size_t length) {
  auto ids = ReadPrompts("ferry-tiny-v3/heldout_" + domain + ".json").at(window);
  ids.resize(length);
  return ids;
}

// Four sequences of one length: on four ranks or fewer the global order of tokens is the same.
std::vector<Request> FourSequences() {
  std::vector<Request> requests;
  for (size_t i = 0; i < 4; ++i) requests.push_back(LogitsRequest(Text("docs", i, 40)));
  return requests;
}

void ExpectSame(const std::vector<RunResult>& got, const std::vector<RunResult>& want, const char* what) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    ASSERT_FALSE(want[i].logits.empty());
    EXPECT_TRUE(SameBits(got[i].expert_idx, want[i].expert_idx)) << what << ", sequence " << i;
    EXPECT_TRUE(SameBits(got[i].logits, want[i].logits)) << what << ", sequence " << i;
  }
}

class OverflowIdentity : public testing::TestWithParam<OverflowPolicy> {};

TEST_P(OverflowIdentity, DropsAndBitsDoNotDependOnRanksPlacementOrPadding) {
  const auto requests = FourSequences();
  RunSetup setup;
  setup.engine.moe.overflow = GetParam();
  const auto want = RunLocally(setup, requests);
  EXPECT_FALSE(SameBits(want[0].logits, RunLocally({}, requests)[0].logits)) << "the policy did nothing";
  setup.num_ranks = 4;
  ExpectSame(RunLocally(setup, requests), want, "4 ranks");
  setup.placement_seed = 3;
  ExpectSame(RunLocally(setup, requests), want, "4 ranks, random placement");
  setup.engine.moe.overflow.padding = Padding::kCapacity;
  ExpectSame(RunLocally(setup, requests), want, "4 ranks, random placement, padded");
}

INSTANTIATE_TEST_SUITE_P(
    Policies, OverflowIdentity,
    testing::Values(OverflowPolicy{.kind = Overflow::kCapacity, .capacity_factor = .6, .drop_by = DropBy::kProbability},
                    OverflowPolicy{
                        .kind = Overflow::kCapacity, .capacity_factor = .6, .renormalise = Renormalise::kYes},
                    OverflowPolicy{.kind = Overflow::kReroute, .capacity_factor = 1}));

TEST(Overflow, RankBudgetOfEverythingIsDropless) {
  const auto requests = FourSequences();
  RunSetup setup;
  setup.num_ranks = 3;
  setup.engine.moe.overflow = {.kind = Overflow::kRankBudget, .capacity_factor = 3};
  const auto want = RunLocally({}, requests);
  ExpectSame(RunLocally(setup, requests), want, "budget of all selections");
  setup.engine.moe.overflow.capacity_factor = .5;
  const auto cut = RunLocally(setup, requests);
  const auto num_dropped = [](const RunResult& r) { return std::count(r.expert_idx.begin(), r.expert_idx.end(), -1); };
  EXPECT_EQ(num_dropped(want[3]), 0);
  EXPECT_GT(num_dropped(cut[3]), 0);
}

struct Formats {
  const char* name;
  Compute compute;
  DType dispatch, combine;
};

class NarrowIdentity : public testing::TestWithParam<Formats> {};

TEST_P(NarrowIdentity, SameBitsOnAllRanksAndPlacements) {
  RunSetup setup;
  setup.engine.compute = GetParam().compute;
  const std::vector<Request> request = {LogitsRequest(Text("source", 3, 60))};
  const auto plain = RunLocally(setup, request);
  setup.engine.moe.dispatch_dtype = GetParam().dispatch;
  setup.engine.moe.exchange.output_dtype = GetParam().combine;
  const auto want = RunLocally(setup, request);
  EXPECT_FALSE(SameBits(want[0].logits, plain[0].logits)) << "nothing was rounded";
  for (const int ranks : {2, 3, 5}) {
    setup.num_ranks = ranks;
    setup.placement_seed = ranks == 2 ? -1 : ranks;
    setup.engine.moe.exchange.path = ranks == 3 ? ExchangePath::kAllToAllV : ExchangePath::kPeer;
    ExpectSame(RunLocally(setup, request), want, "ranks");
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, NarrowIdentity,
                         testing::Values(Formats{"fp8_f32", Compute::kF32, DType::kF8E4M3, DType::kF32},
                                         Formats{"fp8_bf16", Compute::kBF16, DType::kF8E4M3, DType::kBF16},
                                         Formats{"int8_f32", Compute::kF32, DType::kI8, DType::kF32},
                                         Formats{"int8_bf16", Compute::kBF16, DType::kI8, DType::kBF16},
                                         Formats{"f32_out_bf16", Compute::kF32, DType::kF32, DType::kBF16}),
                         [](const auto& info) { return info.param.name; });

// The most that the mean loss may move over n tokens when rows carry independent relative errors of r (RMS).
// To first order, silu(gate(x)) * up(x) doubles them, and later layers, which see the changed stream, are given a
// factor of two more: 4 r of the logits, whose deviation is about 4 in a trained model: d = 16 r nats per logit. The
// loss then moves by the divergence of the two distributions, d^2 / 2, and by a mean of n terms without a sign and of
// size d: three of its deviations, 3 d / sqrt(n).
double LossBound(double r, int64_t n) {
  const double d = 16 * r;
  return d * d / 2 + 3 * d / std::sqrt(static_cast<double>(n));
}

TEST(NarrowDispatch, PerplexityMovesLittle) {
  const auto prompts = ReadPrompts("ferry-tiny-v3/heldout_bible.json");
  std::vector<Request> requests;
  for (size_t i = 0; i < std::min<size_t>(prompts.size(), 8); ++i) requests.push_back(ScoreRequest(prompts[i]));
  int64_t num_scored = 0;
  const auto loss = [&](std::optional<DType> dispatch, DType combine) {
    RunSetup setup;
    setup.engine.compute = Compute::kBF16;
    setup.num_ranks = 2;
    setup.engine.moe.dispatch_dtype = dispatch;
    setup.engine.moe.exchange.output_dtype = combine;
    setup.engine.cache_tokens_per_rank = 8192;
    double nll = 0;
    num_scored = 0;
    for (const RunResult& r : RunLocally(setup, requests)) nll += r.nll, num_scored += r.num_scored;
    EXPECT_GT(num_scored, 0);
    return nll / static_cast<double>(num_scored);
  };
  const double plain = loss(std::nullopt, DType::kF32);
  // Uniform within half a step: E4M3 2^-4 of the value; int8 1/254 of the block's largest value, which is 2.7
  // deviations for 128 normal values; bf16 2^-9 of the value.
  const double e4m3 = 0x1p-4 / std::sqrt(3), int8 = 2.7 / 254 / std::sqrt(3), bf16 = 0x1p-9 / std::sqrt(3);
  const struct {
    const char* name;
    DType dispatch, combine;
    double error;
  } cases[] = {{"fp8 dispatch", DType::kF8E4M3, DType::kF32, e4m3},
               {"fp8 dispatch, bf16 combine", DType::kF8E4M3, DType::kBF16, e4m3 + bf16},
               {"int8 dispatch", DType::kI8, DType::kF32, int8},
               {"bf16 dispatch, bf16 combine", DType::kBF16, DType::kBF16, bf16}};
  std::printf("bf16 dispatch: perplexity %.4f\n", std::exp(plain));
  for (const auto& c : cases) {
    const double l = loss(c.dispatch, c.combine);
    std::printf("%s: perplexity %.6f, %+.4f %%\n", c.name, std::exp(l), 100 * (std::exp(l - plain) - 1));
    EXPECT_LT(std::abs(l - plain), LossBound(c.error, num_scored)) << c.name;
  }
}

// Root mean square of the change of one text's logits.
double LogitChange(Compute compute, DType dispatch, DType combine) {
  const std::vector<Request> request = {LogitsRequest(Text("bible", 2, 120))};
  RunSetup setup;
  setup.engine.compute = compute;
  const auto plain = RunLocally(setup, request)[0].logits;
  setup.engine.moe.dispatch_dtype = dispatch;
  setup.engine.moe.exchange.output_dtype = combine;
  const auto narrow = RunLocally(setup, request)[0].logits;
  EXPECT_EQ(plain.size(), narrow.size());
  double sum = 0;
  for (size_t i = 0; i < plain.size(); ++i) sum += (narrow[i] - plain[i]) * (narrow[i] - plain[i]);
  return std::sqrt(sum / static_cast<double>(plain.size()));
}

// In f32, where nothing else is rounded: the error follows the formats' steps, 2^-4, 1/254 of a block's largest, 2^-9.
TEST(NarrowDispatch, CoarserFormatsChangeLogitsMore) {
  const double fp8 = LogitChange(Compute::kF32, DType::kF8E4M3, DType::kF32);
  const double int8 = LogitChange(Compute::kF32, DType::kI8, DType::kF32);
  const double bf16 = LogitChange(Compute::kF32, DType::kBF16, DType::kF32);
  std::printf("logits change by %.6f (fp8), %.6f (int8), %.6f (bf16)\n", fp8, int8, bf16);
  EXPECT_GT(fp8, 2 * int8);
  EXPECT_GT(int8, 2 * bf16);
  EXPECT_GT(bf16, 0);
}

}  // namespace
}  // namespace tokenferry

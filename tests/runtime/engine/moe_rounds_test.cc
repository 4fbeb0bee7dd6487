// One MoE layer over a group of ranks: its bits depend neither on the ranks, nor on the rounds that a budget makes of
// it, nor on where its rows were written.
#include "runtime/engine/moe_rounds.h"

#include <gmock/gmock.h>

#include <cmath>

#include "comm/tuning/exchange_budget.h"
#include "tests/comm/transport/rank_group.h"
#include "tests/support/device_cases.h"
#include "tests/support/status_matchers.h"

namespace tokenferry {
namespace {

constexpr int kExperts = 7;
constexpr int64_t kHidden = 24, kInner = 20;
constexpr int64_t kTokensPerRank[] = {5, 0, 11}, kAllTokens = 16;

MoeShape Shape(Compute compute) {
  return {.hidden = kHidden,
          .intermediate = kInner,
          .num_experts = kExperts,
          .router = {.renormalise = Renormalise::kYes, .top_k = 3},
          .compute = compute,
          .max_tokens = kAllTokens};
}

std::vector<float> Random(uint32_t seed, int64_t size) {
  std::mt19937 random(seed);
  return RandomNormal(random, size);
}

// The weights of a rank: random, of each expert the same on any rank.
class Weights {
 public:
  Weights(TestDevice& device, const Placement& placement, RankId rank) {
    const auto upload = [&](uint32_t seed, int64_t rows, int64_t cols) -> WeightView {
      memory_.push_back(device.Upload(Random(seed, rows * cols)));
      return {.format = {}, .data = memory_.back().data(), .rows = rows, .cols = cols};
    };
    weights_.router = upload(1, kExperts, kHidden);
    std::vector<WeightView> gate, up, down;
    for (const int expert : placement.local_experts(rank)) {
      const uint32_t seed = 10 + 3 * expert;
      gate.push_back(upload(seed, kInner, kHidden));
      up.push_back(upload(seed + 1, kInner, kHidden));
      down.push_back(upload(seed + 2, kHidden, kInner));
    }
    const auto array = [&](const std::vector<WeightView>& views) -> WeightArray {
      memory_.push_back(device.Upload(views));
      return {views.empty() ? WeightView() : views[0], memory_.back().as<WeightView>()};
    };
    weights_.experts = {array(gate), array(up), array(down)};
  }
  const MoeLayerWeights& get() const { return weights_; }

 private:
  MoeLayerWeights weights_;
  std::vector<Buffer> memory_;
};

enum class Rows { kAtHome, kOfOwn };

// What the layer makes of tokens [first, first + num_tokens) of all, twice, since memory is used again.
absl::StatusOr<std::vector<float>> RunLayer(Transport& transport, Compute compute, const MoeOptions& options, Rows rows,
                                            int64_t first, int64_t num_tokens, int64_t max_tokens_per_rank) {
  TestDevice device({.isa = BestIsa(SupportedIsas()), .execution = CpuExecution::kLazy});
  Stream& stream = device.stream();
  const Placement placement = Placement::Linear(kExperts, transport.num_ranks());
  const Weights weights(device, placement, transport.rank());
  TF_ASSIGN_OR_RETURN(MoeRounds moe, MoeRounds::Create(transport, device.device(), placement, Shape(compute), options));
  std::vector<float> x = Random(3, kAllTokens * kHidden);
  x = {x.begin() + first * kHidden, x.begin() + (first + num_tokens) * kHidden};
  const Buffer given = device.Upload(x), out = device.Allocate<float>(x.size());
  MoeStep step{.site = {.phase = "moe", .layer = 0, .step = 0},
               .weights = &weights.get(),
               .x = MakeMatrix<const float>(given.data(), num_tokens, kHidden),
               .out = MakeMatrix<float>(out.data(), num_tokens, kHidden),
               .max_tokens_per_rank = max_tokens_per_rank};
  for (int i = 0; i < 2; ++i) {
    step.rows = step.x;
    if (rows == Rows::kAtHome) {
      TF_ASSIGN_OR_RETURN(const FloatMatrix home, moe.HomeRows(num_tokens, max_tokens_per_rank));
      if (home.dtype != (compute == Compute::kBF16 ? DType::kBF16 : DType::kF32)) {
        return absl::InternalError("rows at home are not as experts read them");
      }
      std::vector<BF16> narrow;
      for (const float v : x) narrow.push_back(ToBF16(v));
      const void* const values = compute == Compute::kBF16 ? static_cast<const void*>(narrow.data()) : x.data();
      stream.CopyToDevice(home.data, values, x.size() * home.element_bytes());
      step.rows = home;
    }
    TF_RETURN_IF_ERROR(moe.Begin(stream, step));
    TF_RETURN_IF_ERROR(moe.Compute(stream));
    TF_RETURN_IF_ERROR(moe.Finish(stream));
    TF_RETURN_IF_ERROR(stream.Synchronize());
  }
  TF_ASSIGN_OR_RETURN(const MoeStats stats, moe.layer().stats(stream));
  if (stats.num_calls != 2) return absl::InternalError("rounds are not calls of their own");
  return device.Download<float>(out);
}

// All tokens on one rank, in one round.
std::vector<float> Expected(Compute compute) {
  std::vector<float> want;
  RunThreads(Backend::kLocal, 1, absl::Seconds(60), [&](Transport& transport) {
    const auto out = RunLayer(transport, compute, {.exchange = {.path = ExchangePath::kAllToAllV}}, Rows::kOfOwn, 0,
                              kAllTokens, kAllTokens);
    ASSERT_OK(out);
    want = *out;
  });
  return want;
}

// On three ranks, one of them without tokens.
void ExpectSame(Compute compute, const MoeOptions& options, Rows rows, const std::vector<float>& want) {
  RunThreads(Backend::kLocal, 3, absl::Seconds(60), [&](Transport& transport) {
    int64_t first = 0;
    for (int r = 0; r < transport.rank().value; ++r) first += kTokensPerRank[r];
    const int64_t num_tokens = kTokensPerRank[transport.rank().value];
    const auto out = RunLayer(transport, compute, options, rows, first, num_tokens, 11);
    ASSERT_OK(out);
    EXPECT_TRUE(SameBits(
        *out, std::vector<float>(want.begin() + first * kHidden, want.begin() + (first + num_tokens) * kHidden)))
        << "rank " << transport.rank().value;
  });
}

TEST(MoeRounds, BitsDependNeitherOnRanksNorRoundsNorWhereRowsWereWritten) {
  for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
    const std::vector<float> want = Expected(compute);
    ASSERT_FALSE(want.empty());
    for (const PathInfo* info : kExchangePaths) {
      SCOPED_TRACE(absl::StrCat(ExchangePathName(info->path), compute == Compute::kBF16 ? " bf16" : " f32"));
      MoeOptions options{.exchange = {.path = info->path}};
      ExpectSame(compute, options, Rows::kAtHome, want);
      ExpectSame(compute, options, Rows::kOfOwn, want);
      const auto three_tokens = MostExchangeBytes(ExchangeOptionsOf(Shape(compute), options),
                                                  Placement::Linear(kExperts, 3), /*num_tokens=*/3);
      ASSERT_OK(three_tokens);
      options.exchange_budget = *three_tokens;
      ExpectSame(compute, options, Rows::kOfOwn, want);
    }
  }
}

TEST(MoeRounds, RowsHaveAHomeWhereTheyTravelInOneRoundAsWritten) {
  RunThreads(Backend::kLocal, 1, absl::Seconds(60), [&](Transport& transport) {
    TestDevice device({});
    const Placement placement = Placement::Linear(kExperts, 1);
    const MoeShape shape = Shape(Compute::kBF16);
    MoeOptions options{.exchange = {.path = ExchangePath::kAllToAllV}};
    const auto home_of = [&](int64_t num_tokens) -> const void* {
      auto moe = MoeRounds::Create(transport, device.device(), placement, shape, options);
      EXPECT_TRUE(moe.ok()) << moe.status();
      const auto home = moe->HomeRows(num_tokens, num_tokens);
      EXPECT_TRUE(home.ok()) << home.status();
      return home->data;
    };
    EXPECT_NE(home_of(kAllTokens), nullptr);
    options.dispatch_dtype = DType::kF8E4M3;
    EXPECT_EQ(home_of(kAllTokens), nullptr);
    options.dispatch_dtype = DType::kF32;
    EXPECT_NE(home_of(kAllTokens), nullptr);
    options.exchange_budget = *MostExchangeBytes(ExchangeOptionsOf(shape, options), placement, /*num_tokens=*/3);
    EXPECT_EQ(home_of(4), nullptr);
    EXPECT_NE(home_of(3), nullptr);
    options.exchange_budget = 100;
    EXPECT_EQ(MoeRounds::Create(transport, device.device(), placement, shape, options).status().code(),
              absl::StatusCode::kInvalidArgument);
  });
}

TEST(MoeRounds, MemoryIsWhatIsMadeAtTheStart) {
  const Placement placement = Placement::Linear(kExperts, 3);
  const MoeShape shape = Shape(Compute::kF32);
  MoeOptions options{.exchange = {.path = ExchangePath::kPeer}};
  const int64_t three_tokens = *MostExchangeBytes(ExchangeOptionsOf(shape, options), placement, /*num_tokens=*/3);
  int64_t whole = 0;
  for (const int64_t budget : {int64_t{0}, three_tokens}) {
    options.exchange_budget = budget;
    for (const ExchangePath path : {ExchangePath::kAuto, ExchangePath::kPeer, ExchangePath::kAllToAllV}) {
      options.exchange.path = path;
      RunThreads(Backend::kLocal, 3, absl::Seconds(60), [&](Transport& transport) {
        TestDevice device({});
        const auto moe = MoeRounds::Create(transport, device.device(), placement, shape, options);
        ASSERT_OK(moe);
        const ExchangeMemory memory =
            MoeRounds::Memory(Topology::Of(transport), device.device().kind(), placement, shape, options);
        const int64_t held = moe->layer().exchange_stats(device.stream())->peak_peer_bytes;
        EXPECT_LE(memory.at_start, held);
        EXPECT_GE(memory.at_start, held - 2048);  // flags and headers
        EXPECT_EQ(memory.at_start == 0, path == ExchangePath::kAllToAllV);
        EXPECT_GT(memory.most, memory.at_start);
        if (path == ExchangePath::kPeer && transport.rank() == RankId(0)) {
          EXPECT_EQ(memory.at_start<whole, budget> 0);
          whole = memory.at_start;
        }
      });
    }
  }
  options.exchange_budget = 100;  // which Create refuses
  const auto nothing =
      MoeRounds::Memory(Topology::FromHosts({"a", "a", "a"}), DeviceKind::kCpu, placement, shape, options);
  EXPECT_EQ(nothing.most, 0);
}

TEST(MoeLayer, TokensWithNaNInARouterAreToldOnce) {
  RunThreads(Backend::kLocal, 1, absl::Seconds(60), [&](Transport& transport) {
    TestDevice device({});
    const Placement placement = Placement::Linear(kExperts, 1);
    const Weights weights(device, placement, RankId(0));
    auto layer = MoeLayer::Create(transport, device.device(), placement, Shape(Compute::kF32), {});
    ASSERT_OK(layer);
    std::vector<float> x = Random(3, 4 * kHidden);
    const auto route = [&] {
      const Buffer given = device.Upload(x);
      MoeStep step{.weights = &weights.get(), .x = MakeMatrix<const float>(given.data(), 4, kHidden)};
      ASSERT_OK((*layer)->Route(device.stream(), step));
      ASSERT_OK(device.stream().Synchronize());
    };
    const auto bad_tokens = [&] {
      std::vector<uint8_t> marks(4);
      EXPECT_TRUE((*layer)->TakeBadTokens(device.stream(), absl::MakeSpan(marks)).ok());
      return marks;
    };
    route();
    EXPECT_EQ(bad_tokens(), (std::vector<uint8_t>{0, 0, 0, 0}));
    x[kHidden] = x[3 * kHidden + 1] = std::nanf("");
    route();
    x = Random(3, 4 * kHidden);
    route();  // of the next layer, where nothing is wrong any more
    EXPECT_EQ(bad_tokens(), (std::vector<uint8_t>{0, 1, 0, 1}));
    EXPECT_EQ(bad_tokens(), (std::vector<uint8_t>{0, 0, 0, 0}));
  });
}

}  // namespace
}  // namespace tokenferry

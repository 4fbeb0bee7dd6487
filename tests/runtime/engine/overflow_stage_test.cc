// The overflow policies over a group of ranks: whoever owns a token, the same selections stay.
#include "runtime/engine/overflow_stage.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <random>
#include <thread>

#include "comm/transport/local_transport.h"
#include "core/device/cpu_device.h"

namespace tokenferry {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr int kExperts = 11, kTopK = 3;  // 11 is divided by none of the rank counts

GlobalRouting RandomRouting(int64_t num_tokens, std::mt19937& random) {
  GlobalRouting g;
  g.top_k = kTopK;
  g.token_offsets = {0, num_tokens};
  for (int64_t t = 0; t < num_tokens; ++t) {
    const int first = static_cast<int>(random() % 3);
    for (int k = 0; k < kTopK; ++k) {
      const bool none = random() % 8 == 0;
      g.expert_idx.push_back(none ? -1 : (first + k * (1 + static_cast<int>(t % 2))) % kExperts);
      g.weight.push_back(none ? 0.0f : static_cast<float>(random() % 1000) / 1000);
    }
    for (int e = 0; e < kExperts; ++e) g.choice.push_back(static_cast<float>(random() % 100));
  }
  return g;
}

template <class T>
Buffer Upload(Device& device, Stream& stream, const T* from, size_t count) {
  Buffer buffer = *device.Allocate(count * sizeof(T), MemoryKind::kDevice, "test");
  stream.CopyToDevice(buffer.data(), from, count * sizeof(T));
  return buffer;
}

struct RankResult {
  absl::Status status;
  std::vector<int32_t> expert_idx;
  std::vector<float> weight;
  OverflowCounts counts{kExperts};
};

RankResult RunRank(Transport& transport, const OverflowStageOptions& options, const Placement& placement,
                   const GlobalRouting& all, int64_t begin, int64_t end) {
  RankResult result;
  auto device = CreateCpuDevice({.execution = CpuExecution::kLazy, .memory = CpuMemory::kTrap});
  auto stream = *device->CreateStream();
  auto stage = OverflowStage::Create(transport, *device, placement, options);
  if (!stage.ok()) return {stage.status()};
  const int64_t num_tokens = end - begin, n = num_tokens * kTopK;
  Buffer idx = Upload(*device, *stream, all.expert_idx.data() + begin * kTopK, n);
  Buffer weight = Upload(*device, *stream, all.weight.data() + begin * kTopK, n);
  Routing routing{MakeMatrix<int32_t>(idx.data(), num_tokens, kTopK),
                  MakeMatrix<float>(weight.data(), num_tokens, kTopK)};
  const MatrixView<float> choice = (*stage)->choice(num_tokens);
  stream->CopyToDevice(choice.data, all.choice.data() + begin * kExperts, choice.rows * choice.cols * sizeof(float));
  result.status = (*stage)->Run(*stream, {"overflow", 4, 9}, 1, routing);
  result.expert_idx.resize(n);
  result.weight.resize(n);
  stream->CopyToHost(result.expert_idx.data(), idx.data(), n * sizeof(int32_t));
  stream->CopyToHost(result.weight.data(), weight.data(), n * sizeof(float));
  EXPECT_EQ(stream->Synchronize(), absl::OkStatus());
  result.counts = (*stage)->counts()[1];
  return result;
}

// [R]; rank r owns the tokens [offsets[r], offsets[r + 1]).
std::vector<RankResult> RunAll(const std::vector<OverflowStageOptions>& options, const GlobalRouting& all,
                               const std::vector<int64_t>& offsets) {
  const int num_ranks = static_cast<int>(offsets.size()) - 1;
  const Placement placement = Placement::Linear(kExperts, num_ranks);
  auto transports = CreateLocalGroup(num_ranks, {.timeout = absl::Seconds(30)});
  std::vector<RankResult> results(num_ranks);
  std::vector<std::thread> threads;
  for (int r = 0; r < num_ranks; ++r) {
    threads.emplace_back([&, r] {
      results[r] = RunRank(*transports[r], options[r % options.size()], placement, all, offsets[r], offsets[r + 1]);
    });
  }
  for (auto& t : threads) t.join();
  return results;
}

OverflowStageOptions Options(const OverflowPolicy& policy) {
  return {.policy = policy, .num_layers = 2, .top_k = kTopK, .max_tokens = 100};
}

TEST(OverflowStage, WhoOwnsATokenDoesNotMatter) {
  const uint32_t seed = std::random_device{}();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  std::mt19937 random(seed);
  const OverflowPolicy policies[] = {
      {.kind = Overflow::kCapacity, .capacity_factor = .7, .renormalise = Renormalise::kYes},
      {.kind = Overflow::kCapacity, .capacity_factor = .7, .order = PositionOrder::kTokenMajor},
      {.kind = Overflow::kCapacity, .capacity_factor = .7, .drop_by = DropBy::kProbability},
      {.kind = Overflow::kReroute, .capacity_factor = .7},
      {.kind = Overflow::kReroute, .capacity_factor = 1, .drop_by = DropBy::kProbability},
  };
  for (const OverflowPolicy& policy : policies) {
    for (const int64_t num_tokens : {int64_t{0}, int64_t{1}, static_cast<int64_t>(20 + random() % 60)}) {
      const GlobalRouting before = RandomRouting(num_tokens, random);
      GlobalRouting want = before;
      const Placement one = Placement::Linear(kExperts, 1);
      const int64_t capacity = ExpertCapacity(policy.capacity_factor, kTopK, num_tokens, kExperts);
      ASSERT_EQ(ApplyOverflow(policy, capacity, one, want), absl::OkStatus());
      OverflowCounts counts(kExperts);
      CountOverflow(before, want, RankId(0), counts);
      if (num_tokens > 1) {
        ASSERT_NE(want.expert_idx, before.expert_idx);
      }
      for (const int num_ranks : {1, 2, 3, 5}) {
        std::vector<int64_t> offsets(num_ranks + 1, num_tokens);
        offsets[0] = 0;
        for (int r = 1; r < num_ranks; ++r) offsets[r] = static_cast<int64_t>(random() % (num_tokens + 1));
        if (num_ranks > 2) offsets[2] = offsets[1];  // a rank without tokens
        std::sort(offsets.begin(), offsets.end());
        std::vector<int32_t> idx;
        std::vector<float> weight;
        std::vector<int64_t> dropped(kExperts), rerouted(kExperts);
        int64_t lost_tokens = 0;
        for (const RankResult& r : RunAll({Options(policy)}, before, offsets)) {
          ASSERT_EQ(r.status, absl::OkStatus());
          idx.insert(idx.end(), r.expert_idx.begin(), r.expert_idx.end());
          weight.insert(weight.end(), r.weight.begin(), r.weight.end());
          for (int e = 0; e < kExperts; ++e) dropped[e] += r.counts.dropped[e], rerouted[e] += r.counts.rerouted[e];
          lost_tokens += r.counts.num_lost_tokens;
        }
        EXPECT_EQ(idx, want.expert_idx) << num_ranks << " ranks";
        EXPECT_EQ(weight, want.weight) << num_ranks << " ranks";
        EXPECT_EQ(dropped, counts.dropped);
        EXPECT_EQ(rerouted, counts.rerouted);
        EXPECT_EQ(lost_tokens, counts.num_lost_tokens);
      }
    }
  }
}

TEST(OverflowStage, TrapIsTheSameErrorOnEveryRank) {
  std::mt19937 random(1);
  const GlobalRouting all = RandomRouting(30, random);
  for (const RankResult& r : RunAll({Options({.kind = Overflow::kTrap, .capacity_factor = .5})}, all, {0, 4, 4, 30})) {
    EXPECT_EQ(r.status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(
        std::string(r.status.message()),
        AllOf(HasSubstr("layer 4, overflow"), HasSubstr("its capacity is 5 (30 tokens"), HasSubstr("top-3 of 11")));
  }
}

TEST(OverflowStage, NamesTheRankWithAnotherPolicy) {
  std::mt19937 random(1);
  const GlobalRouting all = RandomRouting(30, random);
  const auto results = RunAll({Options({.kind = Overflow::kCapacity, .capacity_factor = 1}),
                               Options({.kind = Overflow::kCapacity, .capacity_factor = 1.5})},
                              all, {0, 10, 30});
  EXPECT_THAT(std::string(results[0].status.message()), HasSubstr("rank 1 has another overflow policy"));
  EXPECT_THAT(std::string(results[1].status.message()), HasSubstr("rank 0 has another overflow policy"));
}

}  // namespace
}  // namespace tokenferry

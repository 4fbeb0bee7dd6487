#include "launch/session/memory_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tokenferry {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr int64_t kGib = int64_t{1} << 30;

// Hosts "a", "b", .. with so many ranks each.
Topology Hosts(const std::vector<int>& ranks_per_host) {
  Topology topology;
  for (size_t h = 0; h < ranks_per_host.size(); ++h) {
    topology.hosts.push_back({.name = std::string(1, static_cast<char>('a' + h)), .ranks = {}});
    for (int i = 0; i < ranks_per_host[h]; ++i) {
      topology.local_idx_per_rank.push_back(i);
      topology.hosts.back().ranks.push_back(RankId(static_cast<int>(topology.host_idx_per_rank.size())));
      topology.host_idx_per_rank.push_back(static_cast<int>(h));
    }
  }
  return topology;
}

// `experts` GiB of routed experts on each rank, the parts on all of them beside.
std::vector<RankMemory> Ranks(int num_ranks, int64_t experts, int64_t elsewhere, int64_t cache, int64_t activations) {
  return std::vector<RankMemory>(num_ranks, {.weights = (experts + elsewhere) * kGib,
                                             .experts = experts * kGib,
                                             .cache = cache * kGib,
                                             .activations = activations * kGib});
}

absl::Status Fits(const std::vector<RankMemory>& ranks, const std::vector<int64_t>& available, const Topology& topology,
                  const std::vector<int64_t>& gpu_per_rank = {}) {
  return FitsPlaces(ranks, available, MemoryPlaces(topology, gpu_per_rank));
}

std::vector<int64_t> Available(std::vector<int64_t> gib) {
  for (int64_t& value : gib) value *= kGib;
  return gib;
}

TEST(MemoryCheck, RanksOfAHostCountTogether) {
  // 3 ranks of 10 + 2 + 1 + 1.
  const auto ranks = Ranks(3, 10, 2, 1, 1);
  EXPECT_TRUE(Fits(ranks, Available({42, 42, 42}), Hosts({3})).ok());
  EXPECT_TRUE(Fits(ranks, Available({28, 28, 14}), Hosts({2, 1})).ok());
  const absl::Status one = Fits(ranks, Available({41, 42, 42}), Hosts({3}));
  EXPECT_TRUE(absl::IsResourceExhausted(one));
  for (const char* word : {"host a", "3 ranks need 42.0 GiB", "weights 36.0 GiB", "cache 3.0 GiB",
                           "activations 3.0 GiB", "41.0 GiB are available"}) {
    EXPECT_THAT(one.message(), HasSubstr(word));
  }
  EXPECT_THAT(Fits(ranks, Available({28, 28, 13}), Hosts({2, 1})).message(), HasSubstr("host b: its 1 rank needs"));
  EXPECT_TRUE(Fits(Ranks(2, 1, 1, 1, 1), std::vector<int64_t>(2, INT64_MAX), Hosts({2})).ok());
}

// A converted expert and the cache are never there together: the larger of the two counts, rank by rank.
TEST(MemoryCheck, ConvertedExpertsCountUntilThereIsACache) {
  auto ranks = Ranks(2, 10, 2, 1, 1);
  ranks[0].conversion = 2 * kGib;
  EXPECT_TRUE(Fits(ranks, Available({28, 28}), Hosts({2})).ok());
  ranks[1].conversion = 5 * kGib;
  EXPECT_THAT(Fits(ranks, Available({30, 30}), Hosts({2})).message(), HasSubstr("2 ranks need 31.0 GiB"));
  EXPECT_THAT(Fits(ranks, Available({30, 30}), Hosts({2})).message(),
              HasSubstr("exchanges 0.0 MiB; experts while they are converted 7.0 GiB) and 30.0 GiB are available"));
  EXPECT_TRUE(Fits(ranks, Available({31, 31}), Hosts({2})).ok());
}

TEST(MemoryCheck, LogitsCount) {
  auto ranks = Ranks(2, 10, 2, 1, 1);
  ranks[1].logits = 2 * kGib;
  EXPECT_TRUE(Fits(ranks, Available({30, 30}), Hosts({2})).ok());
  EXPECT_THAT(
      Fits(ranks, Available({29, 29}), Hosts({2})).message(),
      HasSubstr("2 ranks need 30.0 GiB (weights 24.0 GiB, cache 2.0 GiB, activations 2.0 GiB, logits 2.0 GiB, "));
}

// What exchanges have from the start counts; what they may grow by is told and refuses nobody.
TEST(MemoryCheck, ExchangesCountAsFarAsTheyAreSureToBeThere) {
  auto ranks = Ranks(2, 10, 2, 1, 1);
  for (RankMemory& rank : ranks) rank.exchange = 2 * kGib, rank.exchange_growth = 50 * kGib;
  EXPECT_TRUE(Fits(ranks, Available({32, 32}), Hosts({2})).ok());
  EXPECT_THAT(Fits(ranks, Available({31, 31}), Hosts({2})).message(),
              HasSubstr("2 ranks need 32.0 GiB (weights 24.0 GiB, cache 2.0 GiB, activations 2.0 GiB, logits 0.0 MiB, "
                        "exchanges 4.0 GiB; up to 100.0 GiB more for exchanges) and 31.0 GiB are available"));
  EXPECT_THAT(Fits(Ranks(1, 1, 1, 0, 1), Available({2}), Hosts({1})).message(), Not(HasSubstr("more for exchanges")));
  ranks[0].conversion = 5 * kGib;  // before there are exchanges
  EXPECT_FALSE(Fits(ranks, Available({32, 32}), Hosts({2})).ok());
}

TEST(MemoryCheck, RanksOfAGpuCountTogether) {
  const auto ranks = Ranks(3, 10, 2, 1, 1);  // 14 each
  EXPECT_TRUE(Fits(ranks, Available({14, 14, 14}), Hosts({3}), {7, 8, 9}).ok());
  EXPECT_TRUE(Fits(ranks, Available({14, 14, 14}), Hosts({2, 1}), {7, 8, 7}).ok());
  const absl::Status shared = Fits(ranks, Available({20, 20, 20}), Hosts({2, 1}), {7, 7, 7});
  EXPECT_TRUE(absl::IsResourceExhausted(shared));
  EXPECT_THAT(shared.message(), HasSubstr("a GPU of host a: its 2 ranks need 28.0 GiB"));
  EXPECT_THAT(shared.message(), HasSubstr("start 2 ranks on 2 GPUs like this one"));
}

// It allocates when rows are first sent: for peers of the host, and once for those of others.
TEST(MemoryCheck, WhatNcclWillTakeCounts) {
  const Topology two = Hosts({3, 1}), one = Hosts({3});
  EXPECT_EQ(NcclBytes(two, RankId(0), ExchangePath::kAuto), 2 * kNcclBytesPerLocalPeer + kNcclBytesOfNetwork);
  EXPECT_EQ(NcclBytes(two, RankId(3), ExchangePath::kTwoLevel), kNcclBytesOfNetwork);
  EXPECT_EQ(NcclBytes(one, RankId(1), ExchangePath::kAllToAllV), 2 * kNcclBytesPerLocalPeer);
  for (const ExchangePath path : {ExchangePath::kAuto, ExchangePath::kPeer}) {
    EXPECT_EQ(NcclBytes(one, RankId(1), path), 0) << "ranks read each other's memory";
  }
  const auto ranks = Ranks(2, 10, 2, 1, 1);  // 14 each
  std::vector<MemoryPlace> places = MemoryPlaces(Hosts({2}), {7, 8});
  for (MemoryPlace& place : places) place.nccl_bytes = kGib;
  EXPECT_TRUE(FitsPlaces(ranks, Available({15, 15}), places).ok());
  EXPECT_THAT(FitsPlaces(ranks, Available({15, 14}), places).message(),
              AllOf(HasSubstr("its 1 rank needs 15.0 GiB"), HasSubstr("NCCL's buffers 1.0 GiB"),
                    HasSubstr("start 3 ranks on 3 GPUs")));  // 9 of each one's 14 are for experts
}

TEST(MemoryCheck, TheRemedyIsOneThatHelps) {
  const auto told = [](const std::vector<RankMemory>& ranks, int64_t available) {
    const int n = static_cast<int>(ranks.size());
    return std::string(Fits(ranks, Available(std::vector<int64_t>(n, available)), Hosts({n})).message());
  };
  // One rank with all 30 of experts and 4 of the rest has no room in 20; 16 of each host's 20 are for experts.
  EXPECT_THAT(told(Ranks(3, 10, 2, 1, 1), 20), HasSubstr("start 2 ranks on 2 hosts"));
  EXPECT_THAT(told(Ranks(1, 30, 2, 0, 1), 10), HasSubstr("start 5 ranks on 5 hosts"));  // 7 each
  EXPECT_THAT(told(Ranks(1, 30, 2, 0, 1), 10), Not(HasSubstr("--kv-cache-tokens")));
  // Four times the 5 that are no experts.
  EXPECT_THAT(told(Ranks(4, 1, 4, 0, 1), 12), HasSubstr("start 1 rank on this host"));
  // Only the cache is in the way, or nothing helps.
  EXPECT_THAT(told(Ranks(2, 1, 1, 100, 1), 50), HasSubstr("give a smaller --kv-cache-tokens"));
  EXPECT_THAT(told(Ranks(1, 10, 20, 0, 1), 20), HasSubstr("no number of such hosts"));
  EXPECT_THAT(told(Ranks(1, 10, 1, 5, 1), 10), HasSubstr("start 4 ranks on 4 hosts like this one, or give a smaller"));
}

TEST(MemoryCheck, BytesForPeople) {
  EXPECT_EQ(FormatBytes(0), "0.0 MiB");
  EXPECT_EQ(FormatBytes(1536 << 10), "1.5 MiB");
  EXPECT_EQ(FormatBytes(5 * kGib / 2), "2.5 GiB");
}

}  // namespace
}  // namespace tokenferry

#include "bench/alltoall/traffic.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>

namespace tokenferry {
namespace {

using ::testing::HasSubstr;

TrafficSpec Spec(const std::string& text) {
  const auto spec = ParseTraffic(text);
  EXPECT_TRUE(spec.ok()) << spec.status();
  return spec.ok() ? *spec : TrafficSpec();
}

std::vector<int64_t> CountExperts(const std::vector<int32_t>& expert_idx, int num_experts) {
  std::vector<int64_t> counts(num_experts);
  for (const int32_t e : expert_idx) ++counts[e];
  return counts;
}

class EveryTraffic : public ::testing::TestWithParam<const char*> {};

TEST_P(EveryTraffic, DoesNotDependOnHowTokensAreSplit) {
  const TrafficSpec spec = Spec(GetParam());
  const TrafficShape shape{64, 6, 3};
  const HostTraffic whole = MakeTraffic(spec, shape, nullptr, 0, 60);
  for (const int ranks : {1, 2, 3, 5}) {
    HostTraffic joined;
    for (int r = 0; r < ranks; ++r) {
      const HostTraffic part = MakeTraffic(spec, shape, nullptr, r * 60 / ranks, 60 / ranks);
      joined.expert_idx.insert(joined.expert_idx.end(), part.expert_idx.begin(), part.expert_idx.end());
      joined.weight.insert(joined.weight.end(), part.weight.begin(), part.weight.end());
    }
    EXPECT_EQ(joined.expert_idx, whole.expert_idx) << ranks;
    EXPECT_EQ(joined.weight, whole.weight) << ranks;
  }
}

TEST_P(EveryTraffic, ExpertsOfATokenDifferAndWeightsSumToOne) {
  const TrafficShape shape{64, 6, 4};
  const HostTraffic traffic = MakeTraffic(Spec(GetParam()), shape, nullptr, 100, 500);
  for (int64_t t = 0; t < 500; ++t) {
    const std::set<int32_t> experts(traffic.expert_idx.begin() + t * 6, traffic.expert_idx.begin() + (t + 1) * 6);
    EXPECT_EQ(experts.size(), 6u);
    EXPECT_GE(*experts.begin(), 0);
    EXPECT_LT(*experts.rbegin(), 64);
    float sum = 0;
    for (int k = 0; k < 6; ++k) {
      EXPECT_GT(traffic.weight[t * 6 + k], 0);
      sum += traffic.weight[t * 6 + k];
    }
    EXPECT_NEAR(sum, 1, 6 * 0x1p-24);
  }
  EXPECT_NE(MakeTraffic(Spec(GetParam()), {64, 6, 5}, nullptr, 100, 500).expert_idx, traffic.expert_idx);
}

INSTANTIATE_TEST_SUITE_P(All, EveryTraffic,
                         ::testing::Values("uniform", "zipf:1", "hot:3", "grouped", "grouped:4:2", "silent-rank"));

// Bounds: five standard deviations of a binomial count.
TEST(Traffic, UniformIsUniform) {
  const auto counts = CountExperts(MakeTraffic(Spec("uniform"), {32, 4, 1}, nullptr, 0, 8000).expert_idx, 32);
  for (const int64_t n : counts) EXPECT_NEAR(n, 1000, 5 * std::sqrt(8000 * (4 / 32.0) * (28 / 32.0)));
}

TEST(Traffic, ZipfHasItsExponent) {
  // With one choice per token nothing is without replacement: expert of rank i has 1 / (i + 1)^S of the harmonic sum.
  auto counts = CountExperts(MakeTraffic(Spec("zipf:1"), {16, 1, 1}, nullptr, 0, 40000).expert_idx, 16);
  std::sort(counts.rbegin(), counts.rend());
  double sum = 0;
  for (int i = 0; i < 16; ++i) sum += 1.0 / (i + 1);
  for (int i = 0; i < 16; ++i) {
    const double p = 1 / (i + 1.0) / sum;
    EXPECT_NEAR(counts[i], 40000 * p, 5 * std::sqrt(40000 * p)) << i;
  }
  counts = CountExperts(MakeTraffic(Spec("zipf:0"), {16, 2, 1}, nullptr, 0, 8000).expert_idx, 16);
  for (const int64_t n : counts) EXPECT_NEAR(n, 1000, 5 * std::sqrt(1000));
}

TEST(Traffic, HotExpertsTakeEveryFirstChoice) {
  const HostTraffic traffic = MakeTraffic(Spec("hot:2"), {32, 4, 1}, nullptr, 0, 1000);
  std::set<int32_t> hot;
  for (int t = 0; t < 1000; ++t) hot.insert(traffic.expert_idx[t * 4]);
  EXPECT_EQ(hot.size(), 2u);
  const auto counts = CountExperts(traffic.expert_idx, 32);
  int64_t of_hot = 0;
  for (const int32_t e : hot) of_hot += counts[e];
  EXPECT_EQ(of_hot, 1000);  // and no second one
}

TEST(Traffic, GroupedKeepsToItsGroups) {
  const HostTraffic traffic = MakeTraffic(Spec("grouped"), {256, 8, 1}, nullptr, 0, 4000);
  double distinct = 0;
  for (int t = 0; t < 4000; ++t) {
    std::set<int> groups;
    for (int k = 0; k < 8; ++k) groups.insert(traffic.expert_idx[t * 8 + k] / 32);
    EXPECT_LE(groups.size(), 4u);
    distinct += static_cast<double>(groups.size());
  }
  EXPECT_NEAR(distinct / 4000, 3.97, 0.02);  // simulated elsewhere with normal scores
}

TEST(Traffic, LastOfSeveralRanksIsSilent) {
  const TrafficSpec spec = Spec("silent-rank");
  EXPECT_EQ(TokensOfRank(spec, 7, 0, 1), 7);
  EXPECT_EQ(TokensOfRank(spec, 7, 0, 2), 7);
  EXPECT_EQ(TokensOfRank(spec, 7, 1, 2), 0);
  EXPECT_EQ(TokensOfRank(Spec("uniform"), 7, 1, 2), 7);
}

TEST(Traffic, BadTextsAreRefused) {
  for (const char* text : {"", "unifrom", "zipf", "zipf:", "zipf:x", "zipf:-1", "zipf:nan", "hot:0", "hot", "grouped:8",
                           "grouped:2:3", "grouped:0:0", "trace:", "uniform:1"}) {
    const auto spec = ParseTraffic(text);
    EXPECT_EQ(spec.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(spec.status().message(), HasSubstr(text));
  }
}

TEST(Traffic, ImpossibleShapesAreRefused) {
  EXPECT_FALSE(CheckTraffic(Spec("uniform"), {4, 5}, nullptr).ok());
  EXPECT_FALSE(CheckTraffic(Spec("hot:4"), {8, 6}, nullptr).ok());
  EXPECT_TRUE(CheckTraffic(Spec("hot:3"), {8, 6}, nullptr).ok());
  EXPECT_FALSE(CheckTraffic(Spec("grouped"), {60, 4}, nullptr).ok());
  EXPECT_FALSE(CheckTraffic(Spec("grouped"), {8, 5}, nullptr).ok());
  const RoutingTrace trace{.num_experts = 8, .top_k = 2};
  EXPECT_THAT(CheckTraffic(Spec("trace:x"), {8, 3}, &trace).message(), HasSubstr("8 experts and top-2"));
}

class TraceFile : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = (std::filesystem::temp_directory_path() / ("tokenferry-trace-" + std::to_string(getpid()))).string();
  }
  void TearDown() override { std::filesystem::remove(path_); }
  absl::Status Read(const std::string& text) {
    std::ofstream(path_) << text;
    return ReadRoutingTrace(path_).status();
  }
  std::string path_;
};

TEST_F(TraceFile, ComesBackAndRepeats) {
  RoutingTrace trace{.num_experts = 5, .top_k = 2, .source = "test"};
  trace.records = {{0, 0, {4, 1, 0, 2}}, {0, 1, {-1, 3}}};
  std::ofstream(path_) << RoutingTraceText(trace);
  const auto read = ReadRoutingTrace(path_);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->num_rows(), 3);
  EXPECT_EQ(read->source, "test");
  const HostTraffic traffic = MakeTraffic(Spec("trace:" + path_), {5, 2}, &*read, 2, 3);
  EXPECT_EQ(traffic.expert_idx, (std::vector<int32_t>{-1, 3, 4, 1, 0, 2}));
  EXPECT_EQ(traffic.weight[0], 0);
  EXPECT_EQ(traffic.weight[1], 1);
}

TEST_F(TraceFile, BrokenOnesAreNamedByLine) {
  const std::string head = R"({"format": "tokenferry-routing-1", "num_experts": 4, "top_k": 2})";
  EXPECT_EQ(ReadRoutingTrace(path_ + "-none").status().code(), absl::StatusCode::kNotFound);
  for (const auto& [text, why] : std::vector<std::pair<std::string, std::string>>{
           {"", "empty"},
           {"{", ":1:2: is not JSON"},
           {R"({"format": "other"})", ":1:12: format: is \"other\", but a routing trace has"},
           {R"({"format": "tokenferry-routing-1", "num_experts": 4, "top_k": 5})",
            ":1:63: top_k: must be an integer in [1, 4], not 5"},
           {head, "no routed token"},
           {head + "\n[]", "must be an object"},
           {head + "\n{\"step\": 0, \"layer\": 0, \"expert_idx\": [1]}", "no multiple of top_k 2"},
           {head + "\n{\"step\": 0, \"layer\": 0, \"expert_idx\": [1, 4]}",
            ":2:43: expert_idx[1]: must be an integer in [-1, 3], not 4"},
           {head + "\n{\"step\": 0, \"layer\": 0, \"expert_idx\": [1, 0.5]}",
            "expert_idx[1]: must be an integer in [-1, 3], not 0.5"},
           {head + "\n{\"step\": -1, \"layer\": 0, \"expert_idx\": []}", ":2:10: step: must be an integer in"}}) {
    EXPECT_THAT(Read(text).message(), HasSubstr(why)) << text;
  }
}

}  // namespace
}  // namespace tokenferry

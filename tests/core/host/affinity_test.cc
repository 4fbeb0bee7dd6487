#include "core/host/affinity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <thread>

namespace tokenferry {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using Cores = std::vector<std::vector<int>>;
using Cpus = std::vector<int>;

// Numbered as Linux does on x86: the second hyperthreads of all cores after the first ones.
Cores Machine(int num_cores, int num_threads_per_core) {
  Cores cores(num_cores);
  for (int core = 0; core < num_cores; ++core) {
    for (int t = 0; t < num_threads_per_core; ++t) cores[core].push_back(core + t * num_cores);
  }
  return cores;
}

Cpus All(const Cores& cores) {
  std::set<int> all;
  for (const auto& core : cores) all.insert(core.begin(), core.end());
  return Cpus(all.begin(), all.end());
}

std::vector<AffinityPlan> PlanAll(const Cores& machine, const std::vector<Cpus>& sets, int num_threads) {
  std::vector<AffinityPlan> plans;
  for (size_t rank = 0; rank < sets.size(); ++rank) {
    auto plan = PlanAffinity(machine, {static_cast<int>(rank), sets, num_threads});
    EXPECT_TRUE(plan.ok()) << plan.status();
    plans.push_back(*plan);
  }
  return plans;
}

std::vector<AffinityPlan> PlanShared(const Cores& machine, int num_ranks, int num_threads) {
  return PlanAll(machine, std::vector<Cpus>(num_ranks, All(machine)), num_threads);
}

TEST(PlanAffinityTest, OneRankTakesOneCpuOfEachCore) {
  const auto plans = PlanShared(Machine(4, 2), 1, 0);
  EXPECT_EQ(plans[0].num_threads, 4);
  EXPECT_THAT(plans[0].cpus, ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(plans[0].binding, Binding::kPinned);
  EXPECT_FALSE(plans[0].bound_by_launcher);
  EXPECT_FALSE(plans[0].oversubscribed);
}

TEST(PlanAffinityTest, AQuotaBoundsTheThreads) {
  const auto plan = [](int num_ranks, int num_threads, double quota) {
    const AffinityRequest request{.local_rank = 0,
                                  .cpus_per_local_rank = std::vector<Cpus>(num_ranks, All(Machine(8, 2))),
                                  .num_threads = num_threads,
                                  .num_cpus_of_quota = quota};
    return PlanAffinity(Machine(8, 2), request).value();
  };
  const struct {
    int num_ranks, num_threads;
    double quota;
    int expected;
    bool oversubscribed;
  } cases[] = {{1, 0, 100, 8, false}, {1, 0, 3, 3, false}, {1, 0, 2.9, 2, false}, {2, 0, 3, 1, false},
               {1, 0, 0.5, 1, true},  {3, 0, 2, 1, true},  {1, 4, 4, 4, false},   {1, 4, 3.9, 4, true},
               {2, 2, 4, 2, false},   {2, 0, 8, 4, false}};
  for (const auto& c : cases) {
    const AffinityPlan p = plan(c.num_ranks, c.num_threads, c.quota);
    EXPECT_EQ(p.num_threads, c.expected) << c.num_ranks << " ranks, quota " << c.quota;
    EXPECT_EQ(p.oversubscribed, c.oversubscribed) << c.num_ranks << " ranks, quota " << c.quota;
  }
}

TEST(PlanAffinityTest, RanksTakeNeighbouringCores) {
  const auto plans = PlanShared(Machine(8, 2), 2, 0);
  EXPECT_THAT(plans[0].cpus, ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(plans[1].cpus, ElementsAre(4, 5, 6, 7));
  const auto few = PlanShared(Machine(8, 2), 2, 1);  // spread over the machine's two halves (its sockets, perhaps)
  EXPECT_THAT(few[0].cpus, ElementsAre(0));
  EXPECT_THAT(few[1].cpus, ElementsAre(4));
}

TEST(PlanAffinityTest, MoreThreadsThanCoresUseHyperthreads) {
  const auto plans = PlanShared(Machine(4, 2), 2, 3);
  EXPECT_THAT(plans[0].cpus, ElementsAre(0, 1, 4));
  EXPECT_THAT(plans[1].cpus, ElementsAre(2, 3, 6));
}

TEST(PlanAffinityTest, EvenStacksArePinnedAndUnevenOnesAreNot) {
  const auto even = PlanShared(Machine(2, 1), 4, 1);
  for (int rank = 0; rank < 4; ++rank) {
    EXPECT_THAT(even[rank].cpus, ElementsAre(rank % 2));
    EXPECT_TRUE(even[rank].oversubscribed);
  }
  const auto pairs = PlanShared(Machine(2, 1), 2, 2);
  for (const auto& plan : pairs) EXPECT_THAT(plan.cpus, ElementsAre(0, 1));
  const auto uneven = PlanShared(Machine(2, 1), 3, 0);
  for (const auto& plan : uneven) {
    EXPECT_EQ(plan.num_threads, 1);
    EXPECT_THAT(plan.cpus, IsEmpty());
    EXPECT_EQ(plan.binding, Binding::kSystemChooses);
    EXPECT_TRUE(plan.oversubscribed);
  }
}

TEST(PlanAffinityTest, StaysWithinWhatTheLauncherGave) {
  const auto plans = PlanAll(Machine(8, 2), {{2, 3, 10, 11}, {5, 6}}, 0);
  EXPECT_THAT(plans[0].cpus, ElementsAre(2, 3));
  EXPECT_THAT(plans[1].cpus, ElementsAre(5, 6));
  for (const auto& plan : plans) EXPECT_TRUE(plan.bound_by_launcher);
  // Two ranks bound to each socket share its set.
  const auto sockets = PlanAll(Machine(8, 1), {{0, 1, 2, 3}, {0, 1, 2, 3}, {4, 5, 6, 7}, {4, 5, 6, 7}}, 0);
  EXPECT_THAT(sockets[1].cpus, ElementsAre(2, 3));
  EXPECT_THAT(sockets[2].cpus, ElementsAre(4, 5));
  // One core each, and more threads than fit: within the set all the same.
  const auto bound = PlanAll(Machine(4, 1), {{0}, {1}}, 2);
  EXPECT_THAT(bound[1].cpus, ElementsAre(1, 1));
  EXPECT_TRUE(bound[1].oversubscribed);
}

TEST(PlanAffinityTest, OverlappingSetsAreNotPinned) {
  const auto plans = PlanAll(Machine(4, 1), {{0, 1, 2}, {2, 3}}, 0);
  for (const auto& plan : plans) {
    EXPECT_EQ(plan.num_threads, 1);
    EXPECT_THAT(plan.cpus, IsEmpty());
    EXPECT_TRUE(plan.bound_by_launcher);
  }
  EXPECT_TRUE(PlanAll(Machine(4, 1), {{0, 1, 2}, {2}}, 1)[1].oversubscribed);
}

TEST(PlanAffinityTest, OddCpusetsWork) {
  // CPUs that the topology does not list, a topology that is missing, one hyperthread only of some cores.
  EXPECT_THAT(PlanAll({{0, 4}}, {{4, 77, 1000}}, 0)[0].cpus, ElementsAre(4, 77, 1000));
  EXPECT_THAT(PlanAll({}, {{3, 9}, {3, 9}}, 0)[1].cpus, ElementsAre(9));
  EXPECT_THAT(PlanAll(Machine(4, 2), {{3, 4, 5}}, 0)[0].cpus, ElementsAre(4, 5, 3));
}

TEST(PlanAffinityTest, NonsenseIsRefused) {
  const Cores machine = Machine(2, 1);
  for (const AffinityRequest& request :
       {AffinityRequest{0, {}, 0}, AffinityRequest{1, {{0, 1}}, 0}, AffinityRequest{-1, {{0, 1}}, 0},
        AffinityRequest{0, {{0, 1}, {}}, 0}, AffinityRequest{0, {{0, 1}}, -1}, AffinityRequest{0, {{0, 1}}, 1 << 30}}) {
    EXPECT_EQ(PlanAffinity(machine, request).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

// Whatever the shape: no CPU has two threads unless there are too many, and then each has as many, or none is pinned.
TEST(PlanAffinityTest, IsBalancedForEveryShape) {
  for (int num_cores : {1, 2, 3, 5, 8}) {
    for (int per_core : {1, 2, 4}) {
      for (int num_ranks : {1, 2, 3, 7, 8}) {
        for (int num_threads : {0, 1, 2, 3, 8}) {
          const Cores machine = Machine(num_cores, per_core);
          const auto plans = PlanShared(machine, num_ranks, num_threads);
          std::map<int, int> load;
          int total = 0, num_pinned = 0;
          for (const auto& plan : plans) {
            ASSERT_TRUE(plan.cpus.empty() || static_cast<int>(plan.cpus.size()) == plan.num_threads);
            for (int cpu : plan.cpus) ++load[cpu];
            total += plan.num_threads;
            num_pinned += static_cast<int>(plan.cpus.size());
          }
          SCOPED_TRACE(testing::Message() << num_cores << " cores of " << per_core << ", " << num_ranks << " ranks of "
                                          << num_threads << " threads: " << plans[0].ToString());
          const int num_cpus = num_cores * per_core;
          ASSERT_EQ(plans[0].oversubscribed, total > num_cpus);
          if (total > num_cpus && total % num_cpus != 0) {
            ASSERT_EQ(num_pinned, 0);
            continue;
          }
          ASSERT_EQ(num_pinned, total);
          const int most = total > num_cpus ? total / num_cpus : 1;
          for (const auto& [cpu, num] : load) ASSERT_LE(num, most) << "CPU " << cpu;
        }
      }
    }
  }
}

TEST(AffinityTest, ThisMachine) {
  const Cpus allowed = AllowedCpus();
  ASSERT_FALSE(allowed.empty());
  EXPECT_TRUE(std::is_sorted(allowed.begin(), allowed.end()));
  const auto plan = PlanAffinity(MachineCores(), {0, {allowed}, 0});
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_GE(plan->num_threads, 1);
  EXPECT_LE(plan->num_threads, static_cast<int>(allowed.size()));
  for (int cpu : plan->cpus) EXPECT_THAT(allowed, testing::Contains(cpu));
  std::set<int> cpus;
  for (const auto& core : MachineCores()) {
    for (int cpu : core) EXPECT_TRUE(cpus.insert(cpu).second) << "CPU " << cpu << " twice";
  }
}

TEST(AffinityTest, PinsTheCallingThreadOnly) {
  const Cpus allowed = AllowedCpus();
  std::thread([&] {
    EXPECT_TRUE(PinThisThread({}).ok());
    EXPECT_EQ(AllowedCpus(), allowed);
    EXPECT_TRUE(PinThisThread({allowed.back()}).ok());
    EXPECT_EQ(AllowedCpus(), Cpus{allowed.back()});
    EXPECT_TRUE(PinThisThread(allowed).ok());
    EXPECT_EQ(AllowedCpus(), allowed);
    EXPECT_EQ(PinThisThread({60000}).code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(PinThisThread({-1}).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(PinThisThread({1 << 30}).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(AllowedCpus(), allowed);
  }).join();
  EXPECT_EQ(AllowedCpus(), allowed);
}

}  // namespace
}  // namespace tokenferry

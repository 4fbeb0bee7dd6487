#include "launch/ranks/cpu_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tokenferry {
namespace {

using testing::HasSubstr;

TEST(CpuReport, SharesOfAllRanks) {
  EXPECT_EQ(DescribeCpuShares({{1, 1}}), "1 thread per rank, 1 CPU allowed");
  EXPECT_EQ(DescribeCpuShares({{4, 8}, {4, 8}}), "4 threads per rank, 8 CPUs allowed");
  EXPECT_EQ(DescribeCpuShares({{2, 8}, {1, 4}, {3, 8}}), "1 to 3 threads per rank, 4 to 8 CPUs allowed");
}

TEST(CpuReport, BindingThatLeavesCpusIdle) {
  const std::vector<int> host = {0, 1, 2, 3, 4, 5, 6, 7};
  const std::string mpirun = "Open MPI's mpirun";
  // mpirun -n 2: a core each.
  const std::string told = WarnOfIdleCpus(mpirun, host, {{0}, {1}}, 0);
  for (const char* word : {"6 of this host's 8 CPUs", "Open MPI's mpirun", "--bind-to none"}) {
    EXPECT_THAT(told, HasSubstr(word));
  }
  EXPECT_THAT(WarnOfIdleCpus("srun", host, {{0}, {1}}, 0), HasSubstr("--cpu-bind=none"));
  EXPECT_THAT(WarnOfIdleCpus(mpirun, host, {{0}, {1}}, 3), HasSubstr("6 of"));  // 3 threads on one CPU
  EXPECT_THAT(WarnOfIdleCpus(mpirun, {0, 1}, {{0}}, 0), HasSubstr("1 of"));     // mpirun -n 1
  // Nothing to say: no launcher, as many threads as wanted, most CPUs in use, the ranks share all.
  EXPECT_EQ(WarnOfIdleCpus("", host, {{0}, {1}}, 0), "");
  EXPECT_EQ(WarnOfIdleCpus(mpirun, host, {{0}, {1}}, 1), "");
  EXPECT_EQ(WarnOfIdleCpus(mpirun, host, {{0, 1, 2}, {3, 4}}, 0), "");
  EXPECT_EQ(WarnOfIdleCpus(mpirun, host, {host, host}, 0), "");
  EXPECT_EQ(WarnOfIdleCpus(mpirun, {}, {{0}}, 0), "");  // unknown
}

}  // namespace
}  // namespace tokenferry

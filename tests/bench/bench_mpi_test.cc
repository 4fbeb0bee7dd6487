#include <gtest/gtest.h>

#include "tests/bench/bench_run.h"
#include "tests/comm/transport/rank_group.h"

namespace tokenferry {
namespace {

TEST(BenchMpi, AllToAllWithMpiBaselines) {
  RunProcesses(Backend::kCheckedMpi, absl::Seconds(60), RunSmallAllToAllBench);
}
TEST(BenchMpi, ManyRoundings) { RunProcesses(Backend::kMpi, absl::Seconds(60), RunWideAllToAllBench); }
TEST(BenchMpi, Moe) { RunProcesses(Backend::kMpi, absl::Seconds(60), RunSmallMoeBench); }

}  // namespace
}  // namespace tokenferry

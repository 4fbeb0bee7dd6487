#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "launch/ranks/bootstrap.h"
#include "launch/ranks/rank_setup.h"

namespace tokenferry {
namespace {

using testing::HasSubstr;

constexpr uint32_t Bits(std::initializer_list<Isa> isas) {
  uint32_t mask = 0;
  for (const Isa isa : isas) mask |= uint32_t{1} << static_cast<int>(isa);
  return mask;
}

SharedFlags Flags(TransportChoice transport, int num_ranks) {
  SharedFlags flags;
  flags.transport = transport;
  flags.num_ranks = num_ranks;
  return flags;
}

TEST(PlanRanks, FollowsFlagsAndLauncher) {
  const LauncherInfo alone, of_three{.launched = true, .rank = 1, .num_ranks = 3},
      of_one{.launched = true, .rank = 0, .num_ranks = 1};
  const struct {
    SharedFlags flags;
    LauncherInfo launcher;
    TransportChoice transport;
    int num_ranks;  // 0: refused
  } cases[] = {
      {Flags(TransportChoice::kAuto, 0), alone, TransportChoice::kLocal, 1},
      {Flags(TransportChoice::kAuto, 5), alone, TransportChoice::kLocal, 5},
      {Flags(TransportChoice::kLocal, 2), alone, TransportChoice::kLocal, 2},
      {Flags(TransportChoice::kMpi, 0), alone, TransportChoice::kMpi, 1},
      {Flags(TransportChoice::kMpi, 2), alone, TransportChoice::kMpi, 0},
      {Flags(TransportChoice::kAuto, 0), of_three, TransportChoice::kMpi, 3},
      {Flags(TransportChoice::kAuto, 3), of_three, TransportChoice::kMpi, 3},
      {Flags(TransportChoice::kAuto, 2), of_three, TransportChoice::kMpi, 0},
      {Flags(TransportChoice::kLocal, 3), of_three, TransportChoice::kLocal, 0},
      {Flags(TransportChoice::kLocal, 3), of_one, TransportChoice::kLocal, 3},
      {Flags(TransportChoice::kAuto, 0), of_one, TransportChoice::kMpi, 1},
  };
  for (size_t i = 0; i < std::size(cases); ++i) {
    const auto plan = PlanRanks(cases[i].flags, cases[i].launcher);
    ASSERT_EQ(plan.ok(), cases[i].num_ranks > 0) << "case " << i << ": " << plan.status();
    if (!plan.ok()) continue;
    EXPECT_EQ(plan->transport, cases[i].transport) << "case " << i;
    EXPECT_EQ(plan->num_ranks, cases[i].num_ranks) << "case " << i;
  }
}

TEST(AgreeOnIsa, TakesTheBestThatAllHave) {
  const uint32_t old = Bits({Isa::kPortable, Isa::kAvx2});
  const uint32_t recent = Bits({Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16});
  const uint32_t arm = Bits({Isa::kPortable, Isa::kNeon});
  EXPECT_EQ(AgreeOnIsa({recent}, "").value(), Isa::kAvx512Bf16);
  EXPECT_EQ(AgreeOnIsa({recent, old, recent}, "").value(), Isa::kAvx2);
  EXPECT_EQ(AgreeOnIsa({recent, arm}, "").value(), Isa::kPortable);
  EXPECT_EQ(AgreeOnIsa({recent, recent}, "avx512").value(), Isa::kAvx512);
  const auto refused = AgreeOnIsa({recent, old}, "avx512");
  EXPECT_THAT(refused.status().message(), HasSubstr("rank 1 does not have it"));
  EXPECT_THAT(refused.status().message(), HasSubstr("avx2"));
}

}  // namespace
}  // namespace tokenferry

#include "core/host/machine.h"

#include <gtest/gtest.h>

#include <thread>

#include "core/host/affinity.h"

namespace tokenferry {
namespace {

TEST(MachineTest, AThreadThatIsPinnedDescribesTheSameMachine) {
  const std::string before = MachineDescription();
  std::string pinned;
  std::thread thread([&] {
    const int cpu = AllowedCpus().back();
    ASSERT_TRUE(PinThisThread({&cpu, 1}).ok());
    ASSERT_EQ(AllowedCpus().size(), 1u);
    pinned = MachineDescription();
  });
  thread.join();
  EXPECT_EQ(pinned, before);
  EXPECT_NE(before.find(" CPUs, "), std::string::npos) << before;
}

}  // namespace
}  // namespace tokenferry

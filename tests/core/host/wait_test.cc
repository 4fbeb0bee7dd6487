#include "core/host/wait.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace tokenferry {
namespace {

TEST(DeadlineTest, ExpiresOnlyWhenItsTimeHasCome) {
  EXPECT_TRUE(Deadline::After(absl::ZeroDuration()).Expired());
  EXPECT_TRUE(Deadline::After(-absl::Hours(1)).Expired());
  EXPECT_EQ(Deadline::After(-absl::Hours(1)).Remaining(), absl::ZeroDuration());
  const Deadline later = Deadline::After(absl::Hours(1));
  EXPECT_FALSE(later.Expired());
  EXPECT_LE(later.Remaining(), absl::Hours(1));
  EXPECT_GT(later.Remaining(), absl::Minutes(50));
}

TEST(DeadlineTest, NeverIsNever) {
  for (const Deadline never : {Deadline::Never(), Deadline::After(absl::InfiniteDuration())}) {
    EXPECT_FALSE(never.Expired());
    EXPECT_EQ(never.Remaining(), absl::InfiniteDuration());
  }
}

TEST(WaitUntilTest, IsReadyAtOnceEvenAfterTheDeadline) {
  EXPECT_EQ(WaitUntil([] { return true; }, Deadline::After(absl::ZeroDuration())), WaitResult::kReady);
}

TEST(WaitUntilTest, ExpiresNotBeforeTheDeadline) {
  const Deadline deadline = Deadline::After(absl::Milliseconds(20));
  int num_asked = 0;
  EXPECT_EQ(WaitUntil([&] { return ++num_asked < 0; }, deadline), WaitResult::kExpired);
  EXPECT_TRUE(deadline.Expired());
  EXPECT_GT(num_asked, SpinWait::kNumSpins) << "it spins, yields and sleeps";
}

TEST(WaitUntilTest, SeesWhatAnotherThreadDoes) {
  for (HostLoad load : {HostLoad::kFits, HostLoad::kOversubscribed}) {
    SetHostLoad(load);
    EXPECT_EQ(Oversubscribed(), load == HostLoad::kOversubscribed);
    std::atomic<int> turn{0};
    auto play = [&turn](int mine) {
      for (int i = 0; i < 200; ++i) {
        ASSERT_EQ(WaitUntil([&] { return turn.load() % 2 == mine; }, Deadline::After(absl::Seconds(60))),
                  WaitResult::kReady);
        turn.fetch_add(1);
      }
    };
    std::thread other([&] { play(1); });
    play(0);
    other.join();
    EXPECT_EQ(turn.load(), 400);
  }
  SetHostLoad(HostLoad::kFits);
}

}  // namespace
}  // namespace tokenferry

#include "core/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_split.h"

namespace tokenferry {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

class LogTest : public testing::Test {
 protected:
  void TearDown() override {
    SetLogRank(-1);
    SetLogLevel(LogLevel::kInfo);
  }
  template <class F>
  std::vector<std::string> LinesOf(F f) {
    testing::internal::CaptureStderr();
    f();
    return absl::StrSplit(testing::internal::GetCapturedStderr(), '\n', absl::SkipEmpty());
  }
};

TEST_F(LogTest, ShowsLevelAndRank) {
  SetLogRank(3);
  const auto lines = LinesOf([] {
    LogInfo("hello");
    LogWarning("{} is no format");
    LogError("bad");
  });
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_THAT(lines[0], StartsWith("I "));
  EXPECT_THAT(lines[0], EndsWith(" [rank 3] hello"));
  EXPECT_THAT(lines[1], EndsWith(" [rank 3] {} is no format"));
  EXPECT_THAT(lines[1], StartsWith("W "));
  EXPECT_THAT(lines[2], StartsWith("E "));
}

TEST_F(LogTest, WithoutARankNoneIsShown) {
  const auto lines = LinesOf([] { LogInfo("hello"); });
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_THAT(lines[0], Not(HasSubstr("rank")));
}

TEST_F(LogTest, RanksBelongToThreads) {
  SetLogRank(1);
  const auto lines = LinesOf([] {
    std::thread([] {
      EXPECT_EQ(LogRank(), -1);
      SetLogRank(2);
      LogInfo("other");
    }).join();
    LogInfo("own");
  });
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_THAT(lines[0], EndsWith("[rank 2] other"));
  EXPECT_THAT(lines[1], EndsWith("[rank 1] own"));
}

TEST_F(LogTest, LevelsBelowAreDropped) {
  auto all = [] {
    LogDebug("d");
    LogInfo("i");
    LogWarning("w");
    LogError("e");
  };
  EXPECT_EQ(LinesOf(all).size(), 3u) << "the default is info";
  const struct {
    LogLevel level;
    size_t num_lines;
  } cases[] = {
      {LogLevel::kDebug, 4}, {LogLevel::kInfo, 3}, {LogLevel::kWarning, 2}, {LogLevel::kError, 1}, {LogLevel::kOff, 0}};
  for (const auto& c : cases) {
    SetLogLevel(c.level);
    EXPECT_EQ(LinesOf(all).size(), c.num_lines);
  }
}

TEST_F(LogTest, AMessageIsOneLine) {
  const auto lines = LinesOf([] { LogInfo("a\nE 00:00:00.000 forged\r\n"); });
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_THAT(lines[0], EndsWith("a\\nE 00:00:00.000 forged\\r\\n"));
}

}  // namespace
}  // namespace tokenferry

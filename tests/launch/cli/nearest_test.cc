#include "launch/cli/nearest.h"

#include <gtest/gtest.h>

#include <vector>

namespace tokenferry {
namespace {

TEST(EditDistance, CountsEachKindOfEditOnce) {
  EXPECT_EQ(EditDistance("", ""), 0);
  EXPECT_EQ(EditDistance("model", "model"), 0);
  EXPECT_EQ(EditDistance("", "abc"), 3);
  EXPECT_EQ(EditDistance("abc", ""), 3);
  EXPECT_EQ(EditDistance("modle", "model"), 1);  // swap
  EXPECT_EQ(EditDistance("modl", "model"), 1);
  EXPECT_EQ(EditDistance("modeel", "model"), 1);
  EXPECT_EQ(EditDistance("mobel", "model"), 1);
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3);
}

TEST(Nearest, TakesTheSmallestDistanceAndTheFirstOfEquals) {
  const std::vector<std::string> words = {"local", "mpi", "auto"};
  EXPECT_EQ(Nearest("mpl", words), "mpi");
  EXPECT_EQ(Nearest("locla", words), "local");
  EXPECT_EQ(Nearest("mpl", std::vector<std::string>{"mpx", "mpi"}), "mpx");
  EXPECT_EQ(Nearest("x", {}), "");
}

TEST(Nearest, SaysNothingWhenNothingIsNear) {
  const std::vector<std::string> words = {"a", "prompt", "stop", "max-tokens"};
  EXPECT_EQ(Nearest("x", words), "");
  EXPECT_EQ(Nearest("", words), "");
  EXPECT_EQ(Nearest("weather", words), "");
  EXPECT_EQ(Nearest("pmt", words), "");
  EXPECT_EQ(Nearest("promtp", words), "prompt");
  EXPECT_EQ(Nearest("prtmpo", words), "prompt");  // two of six letters
  EXPECT_EQ(Nearest("prtmxo", words), "");
}

TEST(Nearest, PrefersWhatTheWordBegins) {
  const std::vector<std::string> words = {"temp", "max-tokens", "temperature"};
  EXPECT_EQ(Nearest("tempera", words), "temperature");
  EXPECT_EQ(Nearest("max", words), "max-tokens");
}

}  // namespace
}  // namespace tokenferry

#include "bench/measure/statistics.h"

#include <gtest/gtest.h>

#include <numeric>

#include "bench/measure/svg_plot.h"
#include "tests/comm/transport/rank_group.h"

namespace tokenferry {
namespace {

TEST(Statistics, OrderOfTheValuesDoesNotMatter) {
  const Summary s = Summarize({5, 1, 4, 2, 3});
  EXPECT_EQ(s.min, 1);
  EXPECT_EQ(s.median, 3);
  EXPECT_EQ(s.p95, 5);
  EXPECT_EQ(s.max, 5);
}

TEST(Statistics, MedianOfAnEvenNumberIsTheMiddle) { EXPECT_EQ(Summarize({1, 2, 10, 20}).median, 6); }

TEST(Statistics, NearestRankPercentile) {
  std::vector<double> values(100);
  std::iota(values.begin(), values.end(), 1);
  EXPECT_EQ(Summarize(values).p95, 95);
  values.resize(20);
  EXPECT_EQ(Summarize(values).p95, 19);
  values.resize(1);
  EXPECT_EQ(Summarize(values).p95, 1);
}

TEST(Statistics, NothingIsZero) { EXPECT_EQ(Summarize({}).max, 0); }

TEST(Statistics, MaxOverRanksTakesEachPlaceAlone) {
  RunThreads(Backend::kLocal, 3, absl::Seconds(20), [](Transport& transport) {
    const double r = transport.rank().value;
    const auto most = MaxOverRanks(transport, {r, -r, r == 1 ? 7.0 : 0.0});
    ASSERT_TRUE(most.ok()) << most.status();
    EXPECT_EQ(*most, (std::vector<double>{2, 0, 7}));
  });
}

TEST(Statistics, RanksWithOtherNumbersOfFiguresAreNamed) {
  RunThreads(Backend::kLocal, 2, absl::Seconds(20), [](Transport& transport) {
    const std::vector<int64_t> mine(transport.rank().value + 1);
    const auto all = GatherNumbers(transport, mine);
    EXPECT_EQ(all.status().code(), absl::StatusCode::kDataLoss);
  });
}

TEST(SvgPlot, PointsLieWhereTheirLogarithmsSay) {
  const std::string svg = RenderSvg({.title = "a < b", .series = {{"one", {{1, 10}, {10, 100}, {100, 1000}, {5, 0}}}}});
  EXPECT_NE(svg.find("a &lt; b"), std::string::npos);
  // Axes from 10^0 to 10^2 and 10^1 to 10^3: corner, middle, corner; the point that is not positive is left out.
  EXPECT_NE(svg.find("M80.0 460.0 L340.0 252.0 L600.0 44.0\""), std::string::npos) << svg;
  EXPECT_EQ(svg.substr(svg.size() - 7), "</svg>\n");
}

}  // namespace
}  // namespace tokenferry

#include "core/io/report_figures.h"

#include <gtest/gtest.h>

namespace tokenferry {
namespace {

struct Row {
  std::string name;
  int64_t bytes = 0;
  double share = 0;
  Cell rate;
};

const std::vector<FigureColumn<Row>> kColumns = {
    {.value = [](const Row& r) -> Cell { return r.name; }, .table = Table::kEvery, .heading = "part", .width = -6},
    {.key = "/bytes",
     .value = [](const Row& r) -> Cell { return r.bytes; },
     .table = Table::kFirst,
     .heading = "size",
     .unit = "MiB",
     .width = 9,
     .decimals = 2,
     .scale = 1.0 / (1 << 20)},
    {.key = "/of/share",
     .value = [](const Row& r) -> Cell { return r.share; },
     .table = Table::kSecond,
     .heading = "share",
     .width = 7,
     .decimals = 1},
    {.key = "/rate",
     .value = [](const Row& r) { return r.rate; },
     .table = Table::kFirst,
     .heading = "rate",
     .width = 6},
    {.key = "/exact_bytes", .value = [](const Row& r) -> Cell { return r.bytes; }}};

const std::vector<Row> kRows = {{"a", 3 << 20, 0.25, {}}, {"bcdef", 1 << 19, 0.125, int64_t{7}}};

TEST(ReportFigures, EveryTableHasItsColumns) {
  EXPECT_EQ(TableText(kColumns, Table::kFirst, kRows),
            "part       size  rate\n"
            "          (MiB)\n"
            "a          3.00     -\n"
            "bcdef      0.50     7\n");
  EXPECT_EQ(TableText(kColumns, Table::kSecond, kRows),
            "part    share\n"
            "a         0.2\n"
            "bcdef     0.1\n");
}

// What has no key is printed alone, an empty cell is not there, and numbers have no scale.
TEST(ReportFigures, JsonHasWhatHasAKey) {
  EXPECT_EQ(FiguresJson(kColumns, kRows[0]).dump(), R"({"bytes":3145728,"of":{"share":0.25},"exact_bytes":3145728})");
  EXPECT_EQ(FiguresJson(kColumns, kRows[1]).dump(),
            R"({"bytes":524288,"of":{"share":0.125},"rate":7,"exact_bytes":524288})");
}

TEST(ReportFigures, ARowMayHaveAReasonInPlaceOfFigures) {
  EXPECT_EQ(RowLine(ColumnsOf(kColumns, Table::kFirst), kRows[0], "no such path"),
            "a      not available: no such path\n");
}

}  // namespace
}  // namespace tokenferry

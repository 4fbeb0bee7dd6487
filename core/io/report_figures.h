// The figures of a report, each described once: where it stands in the JSON and, for those that are printed, its place
// in the tables.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"

namespace tokenferry {

// Empty: the row has no such figure, or nothing was moved that it could be of.
using Cell = std::variant<std::monostate, bool, int64_t, double, std::string>;

// Where a figure is printed: in the line above the tables of a group, or in tables.
enum class Table : uint8_t { kNone, kGroup, kFirst, kSecond, kEvery };

struct Heading {
  std::string group;  // above several columns
  std::string name;
  std::string unit;  // in parentheses below
  int width = 0;     // with the space before it; negative: to the left
};

template <class Row>
struct FigureColumn {
  // JSON pointer within a result, "/phases/plan/median_us"; CSV has dots: "phases.plan.median_us". Empty: it is only
  // printed.
  std::string key;
  std::function<Cell(const Row&)> value;
  Table table = Table::kNone;
  std::string group, heading, unit;  // Heading's
  int width = 0;
  int decimals = 0;
  double scale = 1;  // of what is printed: 100 where the unit is %, 1 / 2^20 for bytes in MiB
};

constexpr size_t kReportColumns = 120;  // that lines of text may have

// Lines of at most kReportColumns, broken at spaces; a word that is longer stays whole.
std::string Wrapped(absl::string_view text);
std::string Padded(absl::string_view text, int width);
// With a space before what stands to the left, but at the line's begin.
void AppendCell(std::string* line, absl::string_view text, int width);
// The name of several columns, with dashes as far as it goes.
std::string GroupHeading(const std::string& name, int width);
// Without a line for groups or units where no heading has any.
std::string TableHeader(const std::vector<Heading>& headings);
std::string CellText(const Cell& cell, int decimals, double scale);  // "-": empty
// Without the spaces at its end, which ends with a line feed.
std::string EndLine(absl::string_view line);

double ToNineDigits(double v);  // as in CSV files: more than any clock has
// Nothing for an empty cell.
void PutFigure(nlohmann::ordered_json& result, const std::string& key, const Cell& cell);

template <class Row>
std::vector<const FigureColumn<Row>*> ColumnsOf(const std::vector<FigureColumn<Row>>& all, Table table) {
  std::vector<const FigureColumn<Row>*> columns;
  for (const FigureColumn<Row>& c : all) {
    if (c.table == table || (c.table == Table::kEvery && table != Table::kGroup)) columns.push_back(&c);
  }
  return columns;
}

template <class Row>
std::string Header(const std::vector<const FigureColumn<Row>*>& columns) {
  std::vector<Heading> headings;
  for (const FigureColumn<Row>* c : columns) headings.push_back({c->group, c->heading, c->unit, c->width});
  return TableHeader(headings);
}

// `why_not`: what stands in place of all columns but those of every table (kEvery); empty: the row has its figures.
template <class Row>
std::string RowLine(const std::vector<const FigureColumn<Row>*>& columns, const Row& row, const std::string& why_not) {
  std::string line;
  for (const FigureColumn<Row>* c : columns) {
    if (!why_not.empty() && c->table != Table::kEvery) continue;
    AppendCell(&line, CellText(c->value(row), c->decimals, c->scale), c->width);
  }
  return why_not.empty() ? EndLine(line) : Wrapped(absl::StrCat(line, " not available: ", why_not));
}

template <class Row>
std::string TableText(const std::vector<FigureColumn<Row>>& all, Table table, const std::vector<Row>& rows) {
  const std::vector<const FigureColumn<Row>*> columns = ColumnsOf(all, table);
  std::string text = Header(columns);
  for (const Row& row : rows) absl::StrAppend(&text, RowLine(columns, row, ""));
  return text;
}

// "hidden 7168, experts 256, ..": what the rows of a group have in common.
template <class Row>
std::string GroupTitle(const std::vector<FigureColumn<Row>>& all, const Row& row) {
  std::vector<std::string> parts;
  for (const FigureColumn<Row>* c : ColumnsOf(all, Table::kGroup)) {
    parts.push_back(absl::StrCat(c->heading, " ", CellText(c->value(row), c->decimals, c->scale)));
  }
  return absl::StrJoin(parts, ", ");
}

template <class Row>
nlohmann::ordered_json FiguresJson(const std::vector<FigureColumn<Row>>& all, const Row& row) {
  nlohmann::ordered_json json;
  for (const FigureColumn<Row>& column : all) {
    if (!column.key.empty()) PutFigure(json, column.key, column.value(row));
  }
  return json;
}

}  // namespace tokenferry

#include "core/io/report_figures.h"

#include <algorithm>
#include <cstdlib>
#include <type_traits>

#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace tokenferry {

std::string Wrapped(absl::string_view text) {
  std::string out, line;
  for (const absl::string_view word : absl::StrSplit(text, ' ')) {
    if (!line.empty() && line.size() + 1 + word.size() > kReportColumns) {
      absl::StrAppend(&out, line, "\n");
      line = "   ";
    }
    absl::StrAppend(&line, line.empty() ? "" : " ", word);
  }
  return absl::StrCat(out, line, "\n");
}

std::string Padded(absl::string_view text, int width) {
  const std::string spaces(std::max<int64_t>(0, std::abs(width) - static_cast<int64_t>(text.size())), ' ');
  return width < 0 ? absl::StrCat(text, spaces) : absl::StrCat(spaces, text);
}

void AppendCell(std::string* line, absl::string_view text, int width) {
  absl::StrAppend(line, Padded(absl::StrCat(width < 0 && !line->empty() ? " " : "", text), width));
}

std::string GroupHeading(const std::string& name, int width) {
  const int num_dashes = width - 3 - static_cast<int>(name.size());
  if (name.empty() || num_dashes < 2) return Padded(name, width);
  return absl::StrCat(" ", std::string(num_dashes / 2, '-'), " ", name, " ",
                      std::string(num_dashes - num_dashes / 2, '-'));
}

std::string TableHeader(const std::vector<Heading>& headings) {
  std::string groups, names, units;
  for (size_t i = 0; i < headings.size();) {
    const std::string& group = headings[i].group;
    int width = 0;
    do {
      width += std::abs(headings[i].width);
    } while (++i < headings.size() && headings[i].group == group);
    absl::StrAppend(&groups, GroupHeading(group, width));
  }
  for (const Heading& h : headings) {
    AppendCell(&names, h.name, h.width);
    AppendCell(&units, h.unit.empty() ? "" : absl::StrCat("(", h.unit, ")"), h.width);
  }
  std::string header;
  for (const std::string& line : {groups, names, units}) {
    if (line.find_first_not_of(' ') != std::string::npos) absl::StrAppend(&header, EndLine(line));
  }
  return header;
}

std::string CellText(const Cell& cell, int decimals, double scale) {
  if (std::holds_alternative<bool>(cell)) return std::get<bool>(cell) ? "true" : "false";
  if (std::holds_alternative<int64_t>(cell)) {
    const int64_t v = std::get<int64_t>(cell);
    return scale == 1 ? absl::StrCat(v) : absl::StrFormat("%.*f", decimals, scale * static_cast<double>(v));
  }
  if (std::holds_alternative<double>(cell)) return absl::StrFormat("%.*f", decimals, scale * std::get<double>(cell));
  return std::holds_alternative<std::string>(cell) ? std::get<std::string>(cell) : "-";
}

std::string EndLine(absl::string_view line) {
  return absl::StrCat(line.substr(0, line.find_last_not_of(' ') + 1), "\n");
}

double ToNineDigits(double v) { return std::strtod(absl::StrFormat("%.9g", v).c_str(), nullptr); }

void PutFigure(nlohmann::ordered_json& result, const std::string& key, const Cell& cell) {
  if (std::holds_alternative<std::monostate>(cell)) return;
  nlohmann::ordered_json& at = result[nlohmann::ordered_json::json_pointer(key)];
  std::visit(
      [&at](const auto& v) {
        using T = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<T, double>) {
          at = ToNineDigits(v);
        } else if constexpr (!std::is_same_v<T, std::monostate>) {
          at = v;
        }
      },
      cell);
}

}  // namespace tokenferry

#include "bench/measure/svg_plot.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace tokenferry {
namespace {

constexpr double kWidth = 860, kHeight = 520, kLeft = 80, kRight = 260, kTop = 44, kBottom = 60;
constexpr const char* kColours[] = {"#1f77b4", "#d62728", "#2ca02c", "#9467bd",
                                    "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f"};

std::string Escape(const std::string& text) {
  return absl::StrReplaceAll(text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}});
}

// Whole powers of ten around the values, mapped onto [from, to].
struct LogAxis {
  int low = 0, high = 1;
  double from = 0, to = 1;

  void Fit(double least, double most) {
    low = static_cast<int>(std::floor(std::log10(least)));
    high = std::max(low + 1, static_cast<int>(std::ceil(std::log10(most))));
  }
  double At(double value) const { return from + (std::log10(value) - low) / (high - low) * (to - from); }
};

void Text(std::string& svg, double x, double y, const char* anchor, const std::string& text) {
  absl::StrAppend(
      &svg, absl::StrFormat("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n", x, y, anchor, Escape(text)));
}

void Line(std::string& svg, double x1, double y1, double x2, double y2) {
  absl::StrAppend(&svg, absl::StrFormat("<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>\n", x1,
                                        y1, x2, y2));
}

void DrawSeries(std::string& svg, const PlotSeries& series, size_t i, const LogAxis& x, const LogAxis& y) {
  const char* colour = kColours[i % std::size(kColours)];
  std::string path;
  for (const auto& [px, py] : series.points) {
    if (px <= 0 || py <= 0) continue;
    absl::StrAppend(&path, path.empty() ? "M" : " L", absl::StrFormat("%.1f %.1f", x.At(px), y.At(py)));
    absl::StrAppend(
        &svg, absl::StrFormat("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>\n", x.At(px), y.At(py), colour));
  }
  absl::StrAppend(&svg, "<path d=\"", path, "\" fill=\"none\" stroke=\"", colour, "\" stroke-width=\"2\"/>\n");
  const double ly = kTop + 18.0 * static_cast<double>(i) + 8, lx = kWidth - kRight + 16;
  absl::StrAppend(&svg, absl::StrFormat("<rect x=\"%.1f\" y=\"%.1f\" width=\"12\" height=\"12\" fill=\"%s\"/>\n", lx,
                                        ly - 10, colour));
  Text(svg, lx + 18, ly, "start", series.name);
}

}  // namespace

std::string RenderSvg(const LogLogPlot& plot) {
  double least_x = INFINITY, most_x = 0, least_y = INFINITY, most_y = 0;
  for (const PlotSeries& s : plot.series) {
    for (const auto& [px, py] : s.points) {
      if (px <= 0 || py <= 0) continue;
      least_x = std::min(least_x, px), most_x = std::max(most_x, px);
      least_y = std::min(least_y, py), most_y = std::max(most_y, py);
    }
  }
  LogAxis x{.from = kLeft, .to = kWidth - kRight}, y{.from = kHeight - kBottom, .to = kTop};
  if (most_x > 0) x.Fit(least_x, most_x), y.Fit(least_y, most_y);
  std::string svg = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" font-family=\"sans-serif\" "
      "font-size=\"12\">\n"
      "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
      kWidth, kHeight);
  Text(svg, kLeft, 24, "start", plot.title);
  for (int p = x.low; p <= x.high; ++p) {
    const double at = x.At(std::pow(10.0, p));
    Line(svg, at, kTop, at, kHeight - kBottom);
    Text(svg, at, kHeight - kBottom + 18, "middle", absl::StrFormat("%g", std::pow(10.0, p)));
  }
  for (int p = y.low; p <= y.high; ++p) {
    const double at = y.At(std::pow(10.0, p));
    Line(svg, kLeft, at, kWidth - kRight, at);
    Text(svg, kLeft - 8, at + 4, "end", absl::StrFormat("%g", std::pow(10.0, p)));
  }
  Text(svg, (kLeft + kWidth - kRight) / 2, kHeight - 16, "middle", plot.x_label);
  Text(svg, 8, kTop - 8, "start", plot.y_label);
  for (size_t i = 0; i < plot.series.size(); ++i) DrawSeries(svg, plot.series[i], i, x, y);
  return svg + "</svg>\n";
}

}  // namespace tokenferry

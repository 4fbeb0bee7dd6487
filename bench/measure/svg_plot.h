// Line plots with logarithmic axes as SVG text.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace tokenferry {

struct PlotSeries {
  std::string name;
  std::vector<std::pair<double, double>> points;  // by x; both coordinates > 0
};

struct LogLogPlot {
  std::string title, x_label, y_label;
  std::vector<PlotSeries> series;
};

// Points that are not positive are left out.
std::string RenderSvg(const LogLogPlot& plot);

}  // namespace tokenferry

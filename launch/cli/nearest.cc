#include "launch/cli/nearest.h"

#include <algorithm>
#include <vector>

#include "absl/strings/match.h"

namespace tokenferry {

int EditDistance(absl::string_view a, absl::string_view b) {
  const size_t width = b.size() + 1;
  std::vector<int> two_back(width), back(width), row(width);
  for (size_t j = 0; j < width; ++j) row[j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    two_back.swap(back);
    back.swap(row);
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j < width; ++j) {
      const int substituted = back[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      row[j] = std::min({back[j] + 1, row[j - 1] + 1, substituted});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], two_back[j - 2] + 1);
    }
  }
  return row[b.size()];
}

std::string Nearest(absl::string_view word, absl::Span<const std::string> candidates) {
  const std::string* best = nullptr;
  // Up to a third of the letters may be wrong, of a short word one; of one letter none.
  const int size = static_cast<int>(word.size());
  int best_distance = std::min(std::max(1, size / 3), std::max(0, size - 1)) + 1;
  for (const std::string& candidate : candidates) {
    int distance = EditDistance(word, candidate);
    if (word.size() >= 3 && absl::StartsWith(candidate, word)) distance = std::min(distance, 1);
    if (distance < best_distance) {
      best = &candidate;
      best_distance = distance;
    }
  }
  return best == nullptr ? "" : *best;
}

}  // namespace tokenferry

#include "runtime/text/pretokenizer.h"

#include <algorithm>

#include "absl/strings/match.h"

namespace tokenferry {
namespace {

struct Range {
  size_t begin, end;
  bool is_match;
};

// Matches and the gaps between them, in order, covering `text`.
std::vector<Range> Ranges(const SplitStep& step, absl::string_view text) {
  std::vector<Range> ranges;
  size_t pos = 0;
  for (const MatchSpan& span : step.regex.FindAll(text)) {
    if (pos < span.begin) ranges.push_back({pos, span.begin, step.invert});
    ranges.push_back({span.begin, span.end, !step.invert});
    pos = span.end;
  }
  if (pos < text.size()) ranges.push_back({pos, text.size(), step.invert});
  return ranges;
}

// Joins each range to the one before where the behaviour says so. For kMergedWithNext `ranges` comes reversed.
std::vector<Range> Joined(const std::vector<Range>& ranges, SplitBehavior behavior) {
  std::vector<Range> out;
  bool previous_match = false;
  for (const Range& range : ranges) {
    bool join =
        behavior == SplitBehavior::kContiguous ? range.is_match == previous_match : range.is_match && !previous_match;
    if (join && !out.empty()) {
      out.back().begin = std::min(out.back().begin, range.begin);
      out.back().end = std::max(out.back().end, range.end);
    } else {
      out.push_back(range);
    }
    previous_match = range.is_match;
  }
  return out;
}

void SplitPiece(const SplitStep& step, absl::string_view piece, std::vector<absl::string_view>& out) {
  std::vector<Range> ranges = Ranges(step, piece);
  switch (step.behavior) {
    case SplitBehavior::kIsolated:
      break;
    case SplitBehavior::kRemoved:
      ranges.erase(std::remove_if(ranges.begin(), ranges.end(), [](const Range& r) { return r.is_match; }),
                   ranges.end());
      break;
    case SplitBehavior::kMergedWithNext:
      std::reverse(ranges.begin(), ranges.end());
      ranges = Joined(ranges, step.behavior);
      std::reverse(ranges.begin(), ranges.end());
      break;
    case SplitBehavior::kMergedWithPrevious:
    case SplitBehavior::kContiguous:
      ranges = Joined(ranges, step.behavior);
      break;
  }
  for (const Range& range : ranges) {
    if (range.begin < range.end) out.push_back(piece.substr(range.begin, range.end - range.begin));
  }
}

void Apply(const std::vector<SplitStep>& steps, std::vector<absl::string_view>& pieces) {
  for (const SplitStep& step : steps) {
    std::vector<absl::string_view> split;
    for (absl::string_view piece : pieces) SplitPiece(step, piece, split);
    pieces = std::move(split);
  }
}

}  // namespace

std::vector<absl::string_view> Pretokenizer::Split(absl::string_view text, std::deque<std::string>& storage) const {
  std::vector<absl::string_view> pieces;
  if (!text.empty()) pieces.push_back(text);
  Apply(steps, pieces);
  if (prefix == PrefixSpace::kAdd) {
    for (absl::string_view& piece : pieces) {
      if (!absl::StartsWith(piece, " ")) piece = storage.emplace_back(absl::StrCat(" ", piece));
    }
  }
  Apply(byte_level_steps, pieces);
  return pieces;
}

}  // namespace tokenferry

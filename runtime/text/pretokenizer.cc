#include "runtime/text/pretokenizer.h"

#include <algorithm>

#include "absl/strings/match.h"

namespace tokenferry {
namespace {

struct TextRange {
  size_t begin, end;
  bool is_match;
};

// Matches and the gaps between them, in order, covering `text`.
std::vector<TextRange> Ranges(const SplitStep& step, absl::string_view text) {
  std::vector<TextRange> ranges;
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
std::vector<TextRange> Joined(const std::vector<TextRange>& ranges, SplitBehavior behavior) {
  std::vector<TextRange> out;
  bool previous_match = false;
  for (const TextRange& range : ranges) {
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
  std::vector<TextRange> ranges = Ranges(step, piece);
  switch (step.behavior) {
    case SplitBehavior::kIsolated:
      break;
    case SplitBehavior::kRemoved:
      ranges.erase(std::remove_if(ranges.begin(), ranges.end(), [](const TextRange& r) { return r.is_match; }),
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
  for (const TextRange& range : ranges) {
    if (range.begin < range.end) out.push_back(piece.substr(range.begin, range.end - range.begin));
  }
}

class Applier {
 public:
  Applier(std::vector<absl::string_view>& pieces, PieceStart start, std::deque<std::string>& storage)
      : pieces_(pieces), start_(start), storage_(storage) {}

  void operator()(const SplitStep& step) const {
    std::vector<absl::string_view> split;
    for (const absl::string_view piece : pieces_) SplitPiece(step, piece, split);
    pieces_ = std::move(split);
  }

  void operator()(const PrefixSpaceStep&) const {
    for (absl::string_view& piece : pieces_) {
      if (!absl::StartsWith(piece, " ")) piece = storage_.emplace_back(absl::StrCat(" ", piece));
    }
  }

  void operator()(const MetaspaceStep& step) const {
    std::vector<absl::string_view> out;
    bool at_start = start_ == PieceStart::kOfText;
    for (const absl::string_view piece : pieces_) {
      std::string& marked = storage_.emplace_back();
      const bool starts_with_mark = absl::StartsWith(piece, " ") || absl::StartsWith(piece, step.mark);
      const bool wanted = step.prepend == MetaspaceStep::Prepend::kAlways ||
                          (step.prepend == MetaspaceStep::Prepend::kFirst && at_start);
      if (wanted && !starts_with_mark) marked = step.mark;
      at_start = false;
      for (const char c : piece) {
        if (c == ' ') {
          marked += step.mark;
        } else {
          marked += c;
        }
      }
      step.split ? CutBefore(marked, step.mark, out) : out.push_back(marked);
    }
    pieces_ = std::move(out);
  }

 private:
  static void CutBefore(absl::string_view text, absl::string_view mark, std::vector<absl::string_view>& out) {
    size_t begin = 0;
    while (begin < text.size()) {
      const size_t end = std::min(text.find(mark, begin + 1), text.size());
      out.push_back(text.substr(begin, end - begin));
      begin = end;
    }
  }

  std::vector<absl::string_view>& pieces_;
  const PieceStart start_;
  std::deque<std::string>& storage_;
};

}  // namespace

std::vector<absl::string_view> Pretokenizer::Split(absl::string_view text, PieceStart start,
                                                   std::deque<std::string>& storage) const {
  std::vector<absl::string_view> pieces;
  if (!text.empty()) pieces.push_back(text);
  const Applier apply(pieces, start, storage);
  for (const PretokenizerStep& step : steps) std::visit(apply, step);
  return pieces;
}

}  // namespace tokenferry

#include "runtime/text/tagged_text.h"

#include <algorithm>

namespace tokenferry {
namespace {

// The first run that has a byte at `pos` or behind it.
std::vector<TaggedText::Run>::const_iterator RunAt(const std::vector<TaggedText::Run>& runs, size_t pos) {
  return std::partition_point(runs.begin(), runs.end(), [pos](const TaggedText::Run& run) { return run.end <= pos; });
}

}  // namespace

bool TaggedText::IsAll(TextOrigin origin, size_t begin, size_t end) const {
  if (begin >= end) return true;
  const auto run = RunAt(runs_, begin);
  return run->origin == origin && end <= run->end;
}

void TaggedText::Append(absl::string_view text, TextOrigin origin) {
  if (text.empty()) return;
  text_.append(text.data(), text.size());
  if (!runs_.empty() && runs_.back().origin == origin) {
    runs_.back().end = text_.size();
  } else {
    runs_.push_back({text_.size(), origin});
  }
}

void TaggedText::AppendRange(const TaggedText& other, size_t begin, size_t end) {
  for (auto run = RunAt(other.runs_, begin); begin < end; ++run) {
    const size_t run_end = std::min(run->end, end);
    Append(absl::string_view(other.text_).substr(begin, run_end - begin), run->origin);
    begin = run_end;
  }
}

TaggedText TaggedText::Range(size_t begin, size_t end) const {
  TaggedText part;
  part.AppendRange(*this, begin, end);
  return part;
}

}  // namespace tokenferry

// What one rendering may use, so that no template and no conversation can keep a server busy or fill its memory.
#pragma once

#include <cstdint>

#include "core/status.h"

namespace tokenferry {

struct JinjaLimits {
  // A step is an expression evaluated, an element walked or copied, or 64 bytes of text made. 20 million take about a
  // second; a conversation of a thousand messages needs less than one.
  int64_t max_steps = 20'000'000;
  int64_t max_output_bytes = int64_t{64} << 20;  // of one text, and of the result
  int max_depth = 400;                           // of calls of macros, blocks and expressions in one another
  int max_value_depth = 100;                     // of lists and dicts in one another
};

class JinjaBudget {
 public:
  explicit JinjaBudget(const JinjaLimits& limits) : limits_(limits), steps_left_(limits.max_steps) {}

  const JinjaLimits& limits() const { return limits_; }

  absl::Status Steps(int64_t num_steps) {
    steps_left_ -= num_steps;
    if (steps_left_ >= 0) return absl::OkStatus();
    return absl::ResourceExhaustedError(absl::StrCat("the template does not end within ", limits_.max_steps, " steps"));
  }
  // Text of so many bytes is about to be made.
  absl::Status Text(int64_t num_bytes) {
    if (num_bytes <= limits_.max_output_bytes) return Steps(1 + num_bytes / 64);
    return absl::ResourceExhaustedError(
        absl::StrCat("the template makes a text of more than ", limits_.max_output_bytes, " bytes"));
  }
  // A text of so many bytes is searched for another one: every byte may have to be compared with every other.
  absl::Status Search(size_t num_bytes, size_t num_sought) {
    return Steps(1 + static_cast<int64_t>(num_bytes * (num_sought + 1) / 1024));
  }
  // A text that is being written piece by piece has so many bytes now.
  absl::Status Grown(int64_t num_bytes) { return num_bytes <= limits_.max_output_bytes ? Steps(1) : Text(num_bytes); }
  absl::Status Depth(int depth) const {
    if (depth <= limits_.max_depth) return absl::OkStatus();
    return absl::ResourceExhaustedError(
        absl::StrCat("the template's macros and expressions are nested deeper than ", limits_.max_depth, " levels"));
  }
  absl::Status ValueDepth(int depth) const {
    if (depth <= limits_.max_value_depth) return absl::OkStatus();
    return absl::ResourceExhaustedError(
        absl::StrCat("the template nests lists and dicts deeper than ", limits_.max_value_depth, " levels"));
  }

 private:
  JinjaLimits limits_;
  int64_t steps_left_;
};

}  // namespace tokenferry

// Cutting text into the pieces that byte-pair merging works on (tokenizer.json's pre_tokenizer).
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "runtime/text/pretokenizer_regex.h"

namespace tokenferry {

// What becomes of the matches of a Split; the gaps between them are pieces in any case.
enum class SplitBehavior : uint8_t {
  kIsolated,            // each match is a piece
  kRemoved,             // matches vanish
  kMergedWithPrevious,  // a match belongs to the gap before it
  kMergedWithNext,      // a match belongs to the gap behind it
  kContiguous,          // neighbouring matches are one piece
};

struct SplitStep {
  SplitRegex regex;
  SplitBehavior behavior;
  bool invert;  // the gaps are the matches
};

enum class PrefixSpace : uint8_t { kNo, kAdd };  // whether each piece is made to begin with a space

struct Pretokenizer {
  std::vector<SplitStep> steps;             // each works on the pieces of the one before
  PrefixSpace prefix = PrefixSpace::kNo;    // ByteLevel's add_prefix_space, behind `steps`
  std::vector<SplitStep> byte_level_steps;  // ByteLevel's use_regex: the GPT-2 expression

  // The non-empty pieces of `text`. They point into `text` or into `storage`.
  std::vector<absl::string_view> Split(absl::string_view text, std::deque<std::string>& storage) const;
};

}  // namespace tokenferry

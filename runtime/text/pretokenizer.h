// Cutting text into the pieces that the model works on (tokenizer.json's pre_tokenizer).
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <variant>
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

// Metaspace: spaces become `mark`, and pieces are made to begin with one.
struct MetaspaceStep {
  enum class Prepend : uint8_t { kNever, kFirst, kAlways };  // kFirst: only where the text begins
  std::string mark;
  Prepend prepend;
  bool split;  // a piece ends before each mark
};

struct PrefixSpaceStep {};  // ByteLevel's add_prefix_space: each piece is made to begin with a space

using PretokenizerStep = std::variant<SplitStep, MetaspaceStep, PrefixSpaceStep>;

enum class PieceStart : uint8_t { kOfText, kLater };  // whether the whole text begins here, or tokens come before

struct Pretokenizer {
  std::vector<PretokenizerStep> steps;  // each works on the pieces of the one before
  bool is_byte_level = false;           // the vocabulary is written in ByteLevel's characters

  // The non-empty pieces of `text`. They point into `text` or into `storage`.
  std::vector<absl::string_view> Split(absl::string_view text, PieceStart start,
                                       std::deque<std::string>& storage) const;
};

}  // namespace tokenferry

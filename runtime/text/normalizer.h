// What tokenizer.json's normalizer does to text before it is cut into pieces.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "core/status.h"
#include "runtime/text/pretokenizer_regex.h"
#include "runtime/text/tagged_text.h"
#include "runtime/text/tokenizer_json.h"
#include "runtime/text/unicode.h"

namespace tokenferry {

struct NormalizePrepend {
  std::string text;  // put before what is not empty
};
struct NormalizeReplace {
  SplitRegex regex;
  std::string literal;  // what `regex` matches, where it is a plain text; else empty
  std::string content;
};
struct NormalizeStrip {
  bool left, right;
};
struct NormalizeLowercase {};  // each character alone

using NormalizerStep =
    std::variant<UnicodeForm, NormalizePrepend, NormalizeReplace, NormalizeStrip, NormalizeLowercase>;

struct Normalizer {
  std::vector<NormalizerStep> steps;  // each on the result of the one before

  // Runs of different origin are normalized apart: a mark at the start of one is not composed with the end of another.
  TaggedText Apply(TaggedText text) const;
};

// None where the file has none. Refuses by name what is not NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip,
// or a Sequence of those.
absl::StatusOr<Normalizer> LoadNormalizer(const JsonNode& root);

}  // namespace tokenferry

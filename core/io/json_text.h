// Where things stand in a JSON text, and lines and columns of any text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"

namespace tokenferry {

using JsonStep = std::variant<std::string, int64_t>;  // into an object by key, into an array by index

// An iterator over a text that shows how far a parser has come.
class CountedText {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountedText(const char* at, const char** furthest) : at_(at), furthest_(furthest) {}
  reference operator*() const { return *at_; }
  CountedText& operator++() {
    *furthest_ = ++at_;
    return *this;
  }
  friend bool operator==(const CountedText& a, const CountedText& b) { return a.at_ == b.at_; }
  friend bool operator!=(const CountedText& a, const CountedText& b) { return a.at_ != b.at_; }

 private:
  const char* at_;
  const char** furthest_;
};

// First byte of the next key or value behind `byte`, which is the end of another, or an opening bracket's end.
size_t SkipToToken(absl::string_view text, size_t byte);

// First byte of the value at `path`. `text` is valid JSON that has one there.
size_t FindJsonValue(absl::string_view text, const std::vector<JsonStep>& path);

// "12:5": line and column of a byte, both from 1 (`first_line`); columns count characters of UTF-8.
std::string LineAndColumn(absl::string_view text, size_t byte, int64_t first_line);

}  // namespace tokenferry

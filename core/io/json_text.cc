#include "core/io/json_text.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace tokenferry {
namespace {

// Follows a path through a text until its value begins.
class ValueFinder : public nlohmann::json_sax<nlohmann::json> {
 public:
  ValueFinder(absl::string_view text, const std::vector<JsonStep>& path)
      : text_(text), path_(path), furthest_(text.data()) {}

  size_t Run() {
    const char* end = text_.data() + text_.size();
    nlohmann::json::sax_parse(CountedText(text_.data(), &furthest_), CountedText(end, &furthest_), this);
    return found_;
  }

  bool null() override { return Value(); }
  bool boolean(bool) override { return Value(); }
  bool number_integer(int64_t) override { return Value(); }
  bool number_unsigned(uint64_t) override { return Value(); }
  bool number_float(double, const std::string&) override { return Value(); }
  bool string(std::string&) override { return Value(); }
  bool binary(binary_t&) override { return Value(); }
  bool start_object(size_t) override { return Enter(); }
  bool start_array(size_t) override { return Enter(); }
  bool end_object() override { return Leave(); }
  bool end_array() override { return Leave(); }
  bool key(std::string& key) override {
    open_.back().step = key;
    return Passed();
  }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) override { return false; }

 private:
  struct Container {
    bool on_path;
    JsonStep step;  // to the value that is read now; in an array, the index of the next one
  };

  bool Passed() {
    token_end_ = static_cast<size_t>(furthest_ - text_.data());
    return true;
  }
  // Whether the value that begins is on the path; if it is the path's end, its place is noted.
  bool IsOnPath() {
    bool on_path = true;
    if (!open_.empty()) {
      Container& parent = open_.back();
      on_path = parent.on_path && open_.size() <= path_.size() && parent.step == path_[open_.size() - 1];
      if (auto* index = std::get_if<int64_t>(&parent.step)) ++*index;
    }
    if (on_path && open_.size() == path_.size()) found_ = SkipToToken(text_, token_end_), done_ = true;
    return on_path;
  }
  bool Value() {
    IsOnPath();
    return Passed() && !done_;
  }
  bool Enter() {
    const bool on_path = IsOnPath();
    open_.push_back({on_path, int64_t{0}});
    return Passed() && !done_;
  }
  bool Leave() {
    open_.pop_back();
    return Passed();
  }

  const absl::string_view text_;
  const std::vector<JsonStep>& path_;
  const char* furthest_;  // what the parser has read
  size_t token_end_ = 0;  // of the last key, value or bracket
  size_t found_ = 0;
  bool done_ = false;
  std::vector<Container> open_;
};

}  // namespace

size_t SkipToToken(absl::string_view text, size_t byte) {
  constexpr absl::string_view kByteOrderMark = "\xef\xbb\xbf";
  if (byte == 0 && text.substr(0, kByteOrderMark.size()) == kByteOrderMark) byte = kByteOrderMark.size();
  const size_t token = text.find_first_not_of(" \t\r\n,:", byte);
  return token == absl::string_view::npos ? text.size() : token;
}

size_t FindJsonValue(absl::string_view text, const std::vector<JsonStep>& path) {
  return ValueFinder(text, path).Run();
}

std::string LineAndColumn(absl::string_view text, size_t byte, int64_t first_line) {
  const absl::string_view before = text.substr(0, byte);
  const size_t newline = before.rfind('\n');
  const absl::string_view line = newline == absl::string_view::npos ? before : before.substr(newline + 1);
  const auto is_first_of_character = [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; };
  return absl::StrCat(first_line + std::count(before.begin(), before.end(), '\n'), ":",
                      1 + std::count_if(line.begin(), line.end(), is_first_of_character));
}

}  // namespace tokenferry

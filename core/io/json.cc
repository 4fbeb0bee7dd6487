#include "core/io/json.h"

#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "core/check.h"
#include "core/io/json_text.h"
#include "core/io/range_file.h"

namespace tokenferry {

struct JsonDocument::Contents {
  std::string name;
  std::string text;
  int64_t first_line = 1;
  nlohmann::json root;
};

namespace {

using Json = nlohmann::json;

// Builds the document as the text is read, so that the limits hold before memory is spent.
class Builder : public nlohmann::json_sax<Json> {
 public:
  Builder(absl::string_view name, absl::string_view text, const JsonLimits& limits)
      : name_(name), text_(text), limits_(limits), furthest_(text.data()) {}

  absl::Status Run(Json& root) {
    root_ = &root;
    const char* end = text_.data() + text_.size();
    if (Json::sax_parse(CountedText(text_.data(), &furthest_), CountedText(end, &furthest_), this)) {
      return absl::OkStatus();
    }
    TF_CHECK(!status_.ok());
    return status_;
  }

  bool null() override { return Add(nullptr) != nullptr; }
  bool boolean(bool value) override { return Add(value) != nullptr; }
  bool number_integer(int64_t value) override { return Add(value) != nullptr; }
  bool number_unsigned(uint64_t value) override { return Add(value) != nullptr; }
  bool number_float(double value, const std::string&) override { return Add(value) != nullptr; }
  bool string(std::string& value) override { return Add(std::move(value)) != nullptr; }
  bool binary(binary_t&) override { return false; }  // no text has it
  bool start_object(size_t) override { return Enter(Json::object()); }
  bool start_array(size_t) override { return Enter(Json::array()); }
  bool end_object() override { return Leave(); }
  bool end_array() override { return Leave(); }

  bool key(std::string& key) override {
    const auto [member, is_new] = open_.back()->get_ref<Json::object_t&>().emplace(key, nullptr);
    if (!is_new) {
      return Fail(SkipToToken(text_, token_end_), absl::StrCat("has the key '", Excerpt(key), "' twice in one object"));
    }
    member_ = &member->second;
    return Count();
  }

  bool parse_error(size_t position, const std::string& token, const nlohmann::detail::exception& error) override {
    constexpr int kNumberOutOfRange = 406;  // of nlohmann's errors
    if (absl::StripAsciiWhitespace(text_).empty()) return Fail(0, "is empty, and no JSON");
    if (const absl::string_view kind = ForeignKind(text_); !kind.empty()) return Fail(0, absl::StrCat("is ", kind));
    if (error.id == kNumberOutOfRange) {
      return Fail(SkipToToken(text_, token_end_), absl::StrCat("has the number ", Excerpt(token), ", out of range"));
    }
    if (position > text_.size()) return Fail(text_.size(), "is not JSON: the text ends too early");
    constexpr size_t kShownBytes = 20;
    const size_t byte = position > 0 ? position - 1 : 0;
    return Fail(byte, absl::StrCat("is not JSON: syntax error at '", Excerpt(text_.substr(byte, kShownBytes)), "'"));
  }

 private:
  // Where the value stands now; null: a limit is exceeded.
  Json* Add(Json value) {
    if (!Count()) return nullptr;
    if (open_.empty()) return &(*root_ = std::move(value));
    if (!open_.back()->is_array()) return &(*member_ = std::move(value));
    auto& elements = open_.back()->get_ref<Json::array_t&>();
    return &elements.emplace_back(std::move(value));
  }
  bool Enter(Json container) {
    if (static_cast<int>(open_.size()) == limits_.max_depth) {
      return Fail(SkipToToken(text_, token_end_), absl::StrCat("is nested deeper than ", limits_.max_depth, " levels"));
    }
    Json* added = Add(std::move(container));
    if (added != nullptr) open_.push_back(added);
    return added != nullptr;
  }
  bool Leave() {
    open_.pop_back();
    token_end_ = static_cast<size_t>(furthest_ - text_.data());
    return true;
  }
  bool Count() {
    if (++num_values_ > limits_.max_values) {
      return Fail(SkipToToken(text_, token_end_), absl::StrCat("has more than ", limits_.max_values, " values"));
    }
    token_end_ = static_cast<size_t>(furthest_ - text_.data());
    return true;
  }
  bool Fail(size_t byte, absl::string_view problem) {
    if (status_.ok()) {
      status_ = absl::InvalidArgumentError(
          absl::StrCat(name_, ":", LineAndColumn(text_, byte, limits_.first_line), ": ", problem));
    }
    return false;
  }

  const absl::string_view name_, text_;
  const JsonLimits limits_;
  const char* furthest_;  // what the parser has read
  size_t token_end_ = 0;  // of the last key, value or bracket
  absl::Status status_;
  int64_t num_values_ = 0;
  Json* root_ = nullptr;
  std::vector<Json*> open_;  // arrays and objects around what comes next
  Json* member_ = nullptr;   // of the innermost object: where the next value goes
};

// The way from `from` to `value`, by its address.
bool FindPath(const Json& from, const Json* value, std::vector<JsonStep>& path) {
  if (&from == value) return true;
  if (from.is_object()) {
    for (const auto& [key, member] : from.get_ref<const Json::object_t&>()) {
      path.emplace_back(key);
      if (FindPath(member, value, path)) return true;
      path.pop_back();
    }
  } else if (from.is_array()) {
    path.emplace_back(int64_t{0});
    for (const Json& element : from) {
      if (FindPath(element, value, path)) return true;
      ++std::get<int64_t>(path.back());
    }
    path.pop_back();
  }
  return false;
}

std::vector<JsonStep> PathTo(const Json& root, const Json* value) {
  std::vector<JsonStep> path;
  TF_CHECK(FindPath(root, value, path));
  return path;
}

bool IsPlainKey(absl::string_view key) {
  for (const char c : key) {
    if (!absl::ascii_isalnum(static_cast<unsigned char>(c)) && c != '_' && c != '-') return false;
  }
  return !key.empty();
}

std::string PathText(const std::vector<JsonStep>& path) {
  std::string text;
  for (const JsonStep& step : path) {
    if (const auto* index = std::get_if<int64_t>(&step)) {
      absl::StrAppend(&text, "[", *index, "]");
    } else if (const auto& key = std::get<std::string>(step); IsPlainKey(key)) {
      absl::StrAppend(&text, text.empty() ? "" : ".", key);
    } else {
      absl::StrAppend(&text, "['", Excerpt(key), "']");
    }
  }
  return text;
}

}  // namespace

absl::StatusOr<JsonDocument> JsonDocument::Parse(std::string text, absl::string_view name, const JsonLimits& limits) {
  if (static_cast<int64_t>(text.size()) > limits.max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": has ", text.size(), " bytes of JSON, more than ", limits.max_bytes));
  }
  auto contents = std::make_shared<Contents>();
  contents->name = std::string(name);
  contents->text = std::move(text);
  contents->first_line = limits.first_line;
  TF_RETURN_IF_ERROR(Builder(contents->name, contents->text, limits).Run(contents->root));
  return JsonDocument(std::move(contents));
}

absl::StatusOr<JsonDocument> JsonDocument::ReadFile(const std::string& path, const JsonLimits& limits) {
  TF_ASSIGN_OR_RETURN(std::string text, ReadTextFile(path, limits.max_bytes));
  return Parse(std::move(text), path, limits);
}

JsonDocument JsonDocument::Of(Json root, absl::string_view name) {
  auto contents = std::make_shared<Contents>();
  contents->name = std::string(name);
  contents->root = std::move(root);
  return JsonDocument(std::move(contents));
}

JsonNode JsonDocument::root() const { return {contents_.get(), &contents_->root}; }

bool JsonNode::is_null() const { return value_->is_null(); }

std::string JsonNode::path() const { return PathText(PathTo(contents_->root, value_)); }

std::string JsonNode::Where() const {
  if (value_ == &contents_->root || contents_->text.empty()) return contents_->name;
  const size_t byte = FindJsonValue(contents_->text, PathTo(contents_->root, value_));
  return absl::StrCat(contents_->name, ":", LineAndColumn(contents_->text, byte, contents_->first_line));
}

std::string JsonNode::Shown() const {
  if (value_->is_object()) return "an object";
  if (value_->is_array()) return absl::StrCat("a list of ", value_->size());
  constexpr size_t kMaxBytes = 120;
  std::string text = value_->dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  if (text.size() > kMaxBytes) text = text.substr(0, kMaxBytes) + "...";
  return text;
}

absl::Status JsonNode::Error(absl::string_view what) const {
  const std::string way = path();
  return absl::InvalidArgumentError(absl::StrCat(Where(), ": ", way, way.empty() ? "" : ": ", what));
}

absl::Status JsonNode::NotSupported(absl::string_view what) const {
  return absl::UnimplementedError(Error(what).message());
}

absl::Status JsonNode::WrongType(absl::string_view expected) const {
  return Error(absl::StrCat("must be ", expected, ", not ", Shown()));
}

absl::StatusOr<std::optional<JsonNode>> JsonNode::Optional(absl::string_view key) const {
  if (!value_->is_object()) return WrongType("an object");
  const auto it = value_->find(std::string(key));
  if (it == value_->end() || it->is_null()) return std::nullopt;
  return std::make_optional(At(*it));
}

absl::StatusOr<JsonNode> JsonNode::Child(absl::string_view key) const {
  TF_ASSIGN_OR_RETURN(std::optional<JsonNode> child, Optional(key));
  if (!child) return Error(absl::StrCat("lacks \"", key, "\""));
  return *child;
}

absl::StatusOr<std::vector<JsonNode>> JsonNode::Elements() const {
  if (!value_->is_array()) return WrongType("a list");
  std::vector<JsonNode> elements;
  elements.reserve(value_->size());
  for (const Json& element : *value_) elements.push_back(At(element));
  return elements;
}

absl::StatusOr<std::vector<std::pair<std::string, JsonNode>>> JsonNode::Members() const {
  if (!value_->is_object()) return WrongType("an object");
  std::vector<std::pair<std::string, JsonNode>> members;
  members.reserve(value_->size());
  for (const auto& [key, member] : value_->get_ref<const Json::object_t&>()) members.emplace_back(key, At(member));
  return members;
}

absl::StatusOr<std::string> JsonNode::String() const {
  const auto* text = value_->get_ptr<const std::string*>();
  if (text == nullptr) return WrongType("a string");
  return *text;
}

absl::StatusOr<bool> JsonNode::Bool() const {
  const auto* flag = value_->get_ptr<const bool*>();
  if (flag == nullptr) return WrongType("true or false");
  return *flag;
}

absl::StatusOr<int64_t> JsonNode::Int(int64_t min, int64_t max) const {
  // Integers from 0 on are stored as unsigned, and integers beyond 64 bits as floating point.
  const auto* number = value_->get_ptr<const uint64_t*>();
  const bool fits = value_->is_number_integer() &&
                    (number == nullptr || *number <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()));
  if (fits && value_->get<int64_t>() >= min && value_->get<int64_t>() <= max) return value_->get<int64_t>();
  return WrongType(absl::StrCat("an integer in [", min, ", ", max, "]"));
}

absl::StatusOr<std::string> JsonNode::StringOr(absl::string_view key, absl::string_view fallback) const {
  TF_ASSIGN_OR_RETURN(std::optional<JsonNode> child, Optional(key));
  if (!child) return std::string(fallback);
  return child->String();
}

absl::StatusOr<bool> JsonNode::BoolOr(absl::string_view key, bool fallback) const {
  TF_ASSIGN_OR_RETURN(std::optional<JsonNode> child, Optional(key));
  if (!child) return fallback;
  return child->Bool();
}

}  // namespace tokenferry

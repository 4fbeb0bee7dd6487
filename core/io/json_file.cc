#include "core/io/json_file.h"

#include <nlohmann/json.hpp>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "core/io/range_file.h"

namespace tokenferry {
namespace {

// Goes over the text without building anything, so that the limits hold before memory is spent.
class LimitsCheck : public nlohmann::json_sax<nlohmann::json> {
 public:
  LimitsCheck(absl::string_view name, const JsonLimits& limits) : name_(name), limits_(limits) {}
  const absl::Status& status() const { return status_; }

  bool null() override { return Count(); }
  bool boolean(bool) override { return Count(); }
  bool number_integer(int64_t) override { return Count(); }
  bool number_unsigned(uint64_t) override { return Count(); }
  bool number_float(double, const std::string&) override { return Count(); }
  bool string(std::string&) override { return Count(); }
  bool binary(binary_t&) override { return Count(); }
  bool start_object(size_t) override { return Enter(); }
  bool start_array(size_t) override { return Enter(); }
  bool end_object() override { return Leave(); }
  bool end_array() override { return Leave(); }

  bool key(std::string& key) override {
    if (!keys_.back().insert(key).second) {
      return Fail(absl::StrCat("has the key '", Excerpt(key), "' twice in one object"));
    }
    return Count();
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return Fail(absl::StrCat("is not JSON: syntax error at byte ", position));
  }

 private:
  bool Enter() {
    if (static_cast<int>(keys_.size()) == limits_.max_depth) {
      return Fail(absl::StrCat("is nested deeper than ", limits_.max_depth, " levels"));
    }
    keys_.emplace_back();
    return Count();
  }
  bool Leave() {
    keys_.pop_back();
    return true;
  }
  bool Count() {
    if (++num_values_ > limits_.max_values) return Fail(absl::StrCat("has more than ", limits_.max_values, " values"));
    return true;
  }
  bool Fail(absl::string_view problem) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(name_, ": ", problem));
    return false;
  }

  const absl::string_view name_;
  const JsonLimits limits_;
  absl::Status status_;
  int64_t num_values_ = 0;
  std::vector<absl::flat_hash_set<std::string>> keys_;  // per open object or array
};

}  // namespace

std::string Excerpt(absl::string_view text) {
  constexpr size_t kMaxBytes = 120;
  std::string out = absl::CHexEscape(text.substr(0, kMaxBytes));
  if (text.size() > kMaxBytes) out += "...";
  return out;
}

absl::StatusOr<nlohmann::json> ParseJson(absl::string_view text, absl::string_view name, const JsonLimits& limits) {
  if (static_cast<int64_t>(text.size()) > limits.max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": has ", text.size(), " bytes of JSON, more than ", limits.max_bytes));
  }
  LimitsCheck check(name, limits);
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &check)) {
    if (!check.status().ok()) return check.status();
    return absl::InvalidArgumentError(absl::StrCat(name, ": is not JSON"));
  }
  nlohmann::json parsed = nlohmann::json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (parsed.is_discarded()) return absl::InvalidArgumentError(absl::StrCat(name, ": is not JSON"));
  return parsed;
}

absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path, const JsonLimits& limits) {
  TF_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, limits.max_bytes));
  return ParseJson(text, path, limits);
}

}  // namespace tokenferry

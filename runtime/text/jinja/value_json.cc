#include "runtime/text/jinja/value_json.h"

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "core/check.h"

namespace tokenferry {
namespace {

using Json = nlohmann::json;

// Reads a text that JsonDocument has found good: what is left to do is to keep the order of keys.
class Builder : public nlohmann::json_sax<Json> {
 public:
  JinjaValue Take() { return std::move(root_); }

  bool null() override { return Add(JinjaValue::None()); }
  bool boolean(bool value) override { return Add(JinjaValue::Bool(value)); }
  bool number_integer(int64_t value) override { return Add(JinjaValue::Int(value)); }
  bool number_unsigned(uint64_t value) override { return Add(JinjaValue::Int(value)); }
  bool number_float(double value, const std::string&) override { return Add(JinjaValue::Float(value)); }
  bool string(std::string& value) override { return Add(JinjaValue::Text(value, TextOrigin::kMessage)); }
  bool binary(binary_t&) override { return false; }  // no text has it
  bool start_object(size_t) override { return Enter(/*is_object=*/true); }
  bool start_array(size_t) override { return Enter(/*is_object=*/false); }
  bool key(std::string& key) override {
    open_.back().key = JinjaValue::Text(key, TextOrigin::kMessage);
    return true;
  }
  bool end_object() override {
    JinjaDict dict = std::move(open_.back().dict);
    open_.pop_back();
    return Add(JinjaValue::Dict(std::move(dict)));
  }
  bool end_array() override {
    std::vector<JinjaValue> items = std::move(open_.back().items);
    open_.pop_back();
    return Add(JinjaValue::List(std::move(items)));
  }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) override { return false; }

 private:
  struct Open {
    bool is_object;
    JinjaValue key;  // of the member that comes next
    JinjaDict dict;
    std::vector<JinjaValue> items;
  };

  bool Enter(bool is_object) {
    open_.push_back({is_object, {}, {}, {}});
    return true;
  }
  bool Add(JinjaValue value) {
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (open_.back().is_object) {
      open_.back().dict.Set(open_.back().key, std::move(value));
    } else {
      open_.back().items.push_back(std::move(value));
    }
    return true;
  }

  JinjaValue root_;
  std::vector<Open> open_;
};

}  // namespace

absl::StatusOr<JinjaValue> ParseJinjaJson(absl::string_view json, absl::string_view name, const JsonLimits& limits) {
  TF_RETURN_IF_ERROR(JsonDocument::Parse(std::string(json), name, limits).status());
  return JinjaFromJson(json);
}

JinjaValue JinjaFromJson(absl::string_view json) {
  Builder builder;
  TF_CHECK(Json::sax_parse(json.begin(), json.end(), &builder));
  return builder.Take();
}

}  // namespace tokenferry

#include "core/io/json_writer.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace tokenferry {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr size_t kColumns = 120;

std::string OnOneLine(const OrderedJson& json) {
  if (!json.is_structured()) return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
  std::string text(1, json.is_object() ? '{' : '[');
  const char* separator = "";
  for (const auto& [key, value] : json.items()) {
    text += separator;
    if (json.is_object()) text += OnOneLine(OrderedJson(key)) + ": ";
    text += OnOneLine(value);
    separator = ", ";
  }
  return text + (json.is_object() ? '}' : ']');
}

bool IsNumbers(const OrderedJson& json) {
  return json.is_array() &&
         std::all_of(json.begin(), json.end(), [](const OrderedJson& item) { return item.is_number(); });
}

// `begin`: columns that stand before it on its first line; `indent`: of its last line. One column is left for a comma.
void Append(const OrderedJson& json, size_t begin, size_t indent, std::string& out) {
  const std::string line = OnOneLine(json);
  if (!json.is_structured() || IsNumbers(json) || begin + line.size() + 1 <= kColumns) {
    out += line;
    return;
  }
  out += json.is_object() ? '{' : '[';
  const char* separator = "\n";
  for (const auto& [key, value] : json.items()) {
    out += separator;
    out.append(indent + 2, ' ');
    const std::string name = json.is_object() ? OnOneLine(OrderedJson(key)) + ": " : "";
    out += name;
    Append(value, indent + 2 + name.size(), indent + 2, out);
    separator = ",\n";
  }
  out += '\n';
  out.append(indent, ' ');
  out += json.is_object() ? '}' : ']';
}

}  // namespace

std::string FormatJson(const OrderedJson& json) {
  std::string out;
  Append(json, 0, 0, out);
  return out;
}

}  // namespace tokenferry

// Structs as JSON objects and back, from one list of their fields: std::tuple{std::pair{"key", &Struct::member}, ..}.
// Members that are structs have a to_json and from_json of their own.
#pragma once

#include <nlohmann/json.hpp>
#include <tuple>

namespace tokenferry {

template <class T, class... Fields>
void PutFields(nlohmann::ordered_json& json, const T& value, const std::tuple<Fields...>& fields) {
  std::apply([&](const auto&... field) { ((json[field.first] = value.*field.second), ...); }, fields);
}

// Of PutFields of this very program: keys and types are our own invariant.
template <class T, class... Fields>
void TakeFields(const nlohmann::ordered_json& json, T& value, const std::tuple<Fields...>& fields) {
  std::apply([&](const auto&... field) { (json.at(field.first).get_to(value.*field.second), ...); }, fields);
}

}  // namespace tokenferry

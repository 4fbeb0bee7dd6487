#include "runtime/serve/api/openapi.h"

#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace tokenferry {
namespace {

using Json = nlohmann::ordered_json;

// A field that is null is absent.
Json SchemaOf(const FieldInfo& field) {
  switch (field.kind) {
    case FieldKind::kAny:
      return Json::object();
    case FieldKind::kString:
      return {{"type", {"string", "null"}}};
    case FieldKind::kNumber:
      return {{"type", {"number", "null"}}, {"minimum", field.low}, {"maximum", field.high}};
    case FieldKind::kInteger:
      return {{"type", {"integer", "null"}}, {"minimum", field.low}, {"maximum", field.high}};
    case FieldKind::kSwitch:
      return {{"type", {"boolean", "null"}}};
    case FieldKind::kStrings:
      return {{"type", {"string", "array", "null"}}, {"items", {{"type", "string"}}}};
    case FieldKind::kTokenIds:
      return {{"type", {"array", "null"}}, {"items", {{"type", "integer"}, {"minimum", 0}, {"maximum", field.high}}}};
  }
  return Json::object();
}

Json BodyOf(const DescribedRoute& route) {
  Json properties = Json::object();
  for (const auto& [name, field] : route.fields) properties[name] = SchemaOf(field);
  Json media = {{"schema", {{"type", "object"}, {"properties", std::move(properties)}}}};
  media["example"] = Json::parse(route.example);
  return {{"required", true}, {"content", {{"application/json", std::move(media)}}}};
}

Json OperationOf(const DescribedRoute& route) {
  Json operation = {{"summary", route.summary}};
  if (route.needs_key)
    operation["security"] = Json::array({{{"bearer", Json::array()}}, {{"key", Json::array()}}, Json::object()});
  if (absl::EndsWith(route.path, "/")) {
    operation["parameters"] =
        Json::array({{{"name", "id"}, {"in", "path"}, {"required", true}, {"schema", {{"type", "string"}}}}});
  }
  if (!route.fields.empty()) operation["requestBody"] = BodyOf(route);
  operation["responses"] = {{"200", {{"description", "the answer"}}},
                            {"4XX", {{"description", "an error of the request, which names its field"}}},
                            {"5XX", {{"description", "an error of the server, or: not now"}}}};
  return operation;
}

}  // namespace

Json OpenApi(const std::vector<DescribedRoute>& routes, const std::string& version) {
  Json paths = Json::object();
  for (const DescribedRoute& route : routes) {
    const std::string path = absl::StrCat(route.path, absl::EndsWith(route.path, "/") ? "{id}" : "");
    paths[path][absl::AsciiStrToLower(route.method)] = OperationOf(route);
  }
  Json schemes = {{"bearer", {{"type", "http"}, {"scheme", "bearer"}}},
                  {"key", {{"type", "apiKey"}, {"in", "header"}, {"name", "x-api-key"}}}};
  return {{"openapi", "3.1.0"},
          {"info", {{"title", "tokenferry"}, {"version", version}}},
          {"paths", std::move(paths)},
          {"components", {{"securitySchemes", std::move(schemes)}}}};
}

}  // namespace tokenferry

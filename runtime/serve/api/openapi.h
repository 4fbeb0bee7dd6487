// GET /openapi.json: the routes and their fields as OpenAPI describes them, made from the table of routes and from what
// the readers of bodies ask for, so that it says what is done.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "runtime/serve/api/body_fields.h"

namespace tokenferry {

struct DescribedRoute {
  std::string method, path;  // a path that ends in '/' has a last step that is a parameter, `id`
  std::string summary;
  bool needs_key = false;
  FieldTable fields;    // of its body; empty: there is none
  std::string example;  // of the body
};

nlohmann::ordered_json OpenApi(const std::vector<DescribedRoute>& routes, const std::string& version);

}  // namespace tokenferry

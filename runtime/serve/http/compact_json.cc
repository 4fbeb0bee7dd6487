#include "runtime/serve/http/compact_json.h"

#include <nlohmann/json.hpp>

namespace tokenferry {

std::string CompactJson(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace tokenferry

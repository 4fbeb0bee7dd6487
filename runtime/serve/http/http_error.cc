#include "runtime/serve/http/http_error.h"

#include <nlohmann/json.hpp>

#include "runtime/serve/http/compact_json.h"

namespace tokenferry {

absl::string_view HttpError::type() const {
  if (status == 401 || status == 403) return "authentication_error";
  if (status == 429) return "rate_limit_error";
  return status < 500 ? "invalid_request_error" : "server_error";
}

std::string HttpError::Json() const {
  nlohmann::ordered_json error = {
      {"message", message}, {"type", std::string(type())}, {"param", nullptr}, {"code", code}};
  if (!param.empty()) error["param"] = param;
  const nlohmann::ordered_json json = {{"error", std::move(error)}};
  return CompactJson(json);
}

HttpResponse HttpError::Response() const {
  HttpResponse response;
  response.status = status;
  response.body = Json();
  if (status == 429 || status == 503) response.fields.emplace_back("Retry-After", "1");
  if (status == 401) response.fields.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

}  // namespace tokenferry

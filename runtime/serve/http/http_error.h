// An answer that is an error, in OpenAI's shape: {"error": {"message", "type", "param", "code"}}.
#pragma once

#include <string>

#include "runtime/serve/http/http.h"

namespace tokenferry {

struct HttpError {
  int status = 500;
  std::string code;     // "context_length_exceeded", ..; a word for programs
  std::string message;  // one line for people, with the values
  std::string param;    // the field of the request that is wrong; empty: none

  // "invalid_request_error", "authentication_error", "rate_limit_error" or "server_error": follows from the status.
  absl::string_view type() const;
  std::string Json() const;
  HttpResponse Response() const;  // 429 and 503 say Retry-After
};

}  // namespace tokenferry

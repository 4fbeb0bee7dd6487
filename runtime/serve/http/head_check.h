// Which heads of requests are taken at all. Stricter than the library's parser: two readers of the same bytes (a proxy
// in front of this server, and it) must not see different requests, so whatever is doubtful is refused.
#pragma once

#include <optional>

#include "absl/strings/string_view.h"
#include "runtime/serve/http/http.h"
#include "runtime/serve/http/http_error.h"

namespace tokenferry {

// `head`: a request's first bytes up to and with the empty line. The error to answer with before the connection is
// closed, or none. Refused with 400: line ends other than CR LF, control characters, bytes that are not UTF-8, a
// request line that is not "METHOD /path HTTP/1.0 or 1.1", a folded field, a field name that is no token or is followed
// by a space, no Host or two, Content-Length twice or not a number, Transfer-Encoding that is not just "chunked" or
// comes with Content-Length or in HTTP/1.0. 431: too many fields or bytes. 417: an Expect other than 100-continue.
std::optional<HttpError> CheckHead(absl::string_view head, const HttpLimits& limits);

// The same for a head of which the end has not come yet, so that a client is not waited for in vain.
std::optional<HttpError> CheckPartialHead(absl::string_view begin, const HttpLimits& limits);

}  // namespace tokenferry

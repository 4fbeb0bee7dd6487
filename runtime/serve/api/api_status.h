// Errors of requests as absl::Status, which carries what the answer says besides the message.
#pragma once

#include "core/status.h"
#include "runtime/serve/http/http_error.h"

namespace tokenferry {

// The same error; its HTTP status gives the code of the Status.
absl::Status ToStatus(const HttpError& error);
// What ToStatus took; for any other Status an error of the server, 500 "internal_error", but for InvalidArgument, which
// is 400 "invalid_value".
HttpError ToHttpError(const absl::Status& status);

// 400 "invalid_value" for the request's field `param`: "temperature: must be ..".
absl::Status FieldError(absl::string_view param, absl::string_view what);

}  // namespace tokenferry

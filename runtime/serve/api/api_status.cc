#include "runtime/serve/api/api_status.h"

#include "absl/strings/numbers.h"

namespace tokenferry {
namespace {

constexpr char kHttpStatus[] = "tokenferry/http_status", kCode[] = "tokenferry/code", kParam[] = "tokenferry/param";

std::string Payload(const absl::Status& status, absl::string_view url) {
  const auto value = status.GetPayload(url);
  return value ? std::string(*value) : std::string();
}

}  // namespace

absl::Status ToStatus(const HttpError& error) {
  absl::Status status(error.status >= 500 ? absl::StatusCode::kInternal : absl::StatusCode::kInvalidArgument,
                      error.message);
  status.SetPayload(kHttpStatus, absl::Cord(absl::StrCat(error.status)));
  status.SetPayload(kCode, absl::Cord(error.code));
  status.SetPayload(kParam, absl::Cord(error.param));
  return status;
}

HttpError ToHttpError(const absl::Status& status) {
  HttpError error{500, "internal_error", std::string(status.message()), ""};
  if (absl::IsInvalidArgument(status)) error = {400, "invalid_value", std::string(status.message()), ""};
  if (absl::SimpleAtoi(Payload(status, kHttpStatus), &error.status)) {
    error.code = Payload(status, kCode);
    error.param = Payload(status, kParam);
  }
  return error;
}

absl::Status FieldError(absl::string_view param, absl::string_view what) {
  return ToStatus({400, "invalid_value", absl::StrCat(param, ": ", what), std::string(param)});
}

}  // namespace tokenferry

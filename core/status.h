// Status handling: absl::Status / absl::StatusOr for whatever a peer, a file, a user or a device can cause.
// core/check.h is for our own broken invariants only.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace tokenferry {

// The same code and payloads with `context` and ": " in front of the message. OK stays OK.
inline absl::Status Annotate(const absl::Status& status, absl::string_view context) {
  if (status.ok()) return status;
  absl::Status annotated(status.code(), absl::StrCat(context, ": ", status.message()));
  status.ForEachPayload(
      [&annotated](absl::string_view url, const absl::Cord& value) { annotated.SetPayload(url, value); });
  return annotated;
}

}  // namespace tokenferry

#define TF_STATUS_CONCAT_INNER(a, b) a##b
#define TF_STATUS_CONCAT(a, b) TF_STATUS_CONCAT_INNER(a, b)

// Returns from the enclosing function when `expr` (absl::Status) is not OK.
#define TF_RETURN_IF_ERROR(expr)                              \
  do {                                                        \
    if (absl::Status tf_status_ = (expr); !tf_status_.ok()) { \
      return tf_status_;                                      \
    }                                                         \
  } while (false)

// TF_ASSIGN_OR_RETURN(auto x, F()): F returns absl::StatusOr<T>.
#define TF_ASSIGN_OR_RETURN(lhs, expr) TF_ASSIGN_OR_RETURN_IMPL(TF_STATUS_CONCAT(tf_or_, __LINE__), lhs, expr)
#define TF_ASSIGN_OR_RETURN_IMPL(var, lhs, expr) \
  auto var = (expr);                             \
  if (!var.ok()) return std::move(var).status(); \
  lhs = *std::move(var)

// The one place where NCCL's result codes become Status.
#pragma once

#include <nccl.h>

#include "absl/strings/str_replace.h"
#include "core/status.h"

namespace tokenferry {

// `what` is the call that failed; `comm` may be null. OK for ncclSuccess and for ncclInProgress.
inline absl::Status NcclStatus(ncclResult_t result, absl::string_view what, ncclComm_t comm) {
  if (result == ncclSuccess || result == ncclInProgress) return absl::OkStatus();
  const char* const last = ncclGetLastError(comm);
  std::string message = absl::StrCat(what, ": NCCL says: ", ncclGetErrorString(result));
  if (last != nullptr && *last != 0) {
    absl::StrAppend(&message, " (", absl::StrReplaceAll(last, {{"\n", " "}}), ")");
  }
  switch (result) {
    case ncclRemoteError:
      return absl::UnavailableError(message);
    case ncclInvalidArgument:
    case ncclInvalidUsage:
      return absl::FailedPreconditionError(message);
    default:
      return absl::InternalError(message);
  }
}

}  // namespace tokenferry

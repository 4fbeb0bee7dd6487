// The one place where MPI's error codes become Status.
#pragma once

#include <mpi.h>

#include "core/status.h"

namespace tokenferry {

inline absl::Status MpiStatus(int code, absl::string_view what) {
  if (code == MPI_SUCCESS) return absl::OkStatus();
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0, error_class = MPI_ERR_OTHER;
  MPI_Error_string(code, text, &length);
  MPI_Error_class(code, &error_class);
  const std::string message = absl::StrCat(what, ": MPI says: ", absl::string_view(text, length));
  switch (error_class) {
    case MPI_ERR_NO_MEM:
      return absl::ResourceExhaustedError(message);
    case MPI_ERR_TRUNCATE:  // more came than was expected
      return absl::FailedPreconditionError(message);
    case MPI_ERR_ARG:
    case MPI_ERR_COUNT:
    case MPI_ERR_RANK:
    case MPI_ERR_TAG:
      return absl::InvalidArgumentError(message);
    default:
      return absl::UnavailableError(message);
  }
}

}  // namespace tokenferry

#define TF_RETURN_IF_MPI_ERROR(call) TF_RETURN_IF_ERROR(::tokenferry::MpiStatus((call), #call))

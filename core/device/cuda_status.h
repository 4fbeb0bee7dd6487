// CUDA's error codes as Status. For files that are compiled with CUDA only.
#pragma once

#include <cuda_runtime_api.h>

#include "core/log.h"
#include "core/status.h"

namespace tokenferry {

// `what` is the call that failed. OK for cudaSuccess.
inline absl::Status CudaStatus(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  absl::StatusCode code = absl::StatusCode::kInternal;
  switch (error) {
    case cudaErrorMemoryAllocation:
      code = absl::StatusCode::kResourceExhausted;
      break;
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorStubLibrary:
    case cudaErrorNoKernelImageForDevice:
      code = absl::StatusCode::kFailedPrecondition;
      break;
    case cudaErrorInvalidDevice:
      code = absl::StatusCode::kInvalidArgument;
      break;
    case cudaErrorDevicesUnavailable:
    case cudaErrorSystemNotReady:
      code = absl::StatusCode::kUnavailable;
      break;
    default:
      break;
  }
  return absl::Status(code, absl::StrCat(what, ": ", cudaGetErrorName(error), " (", cudaGetErrorString(error), ")"));
}

// Where nobody can be told by a Status: in destructors.
inline void WarnOnCudaError(cudaError_t error, absl::string_view what) {
  if (const absl::Status status = CudaStatus(error, what); !status.ok()) LogWarning(status.message());
}

}  // namespace tokenferry

#define TF_RETURN_IF_CUDA_ERROR(call) TF_RETURN_IF_ERROR(::tokenferry::CudaStatus((call), #call))

// How an operation names its CUDA launcher: x.cu beside x.cc defines
//   absl::Status CudaX(const XArgs& args, void* stream);
// x.cc declares it and writes TF_CUDA_LAUNCHER(CudaX) into its Op. In a build without CUDA there is no x.cu, and the
// launcher is null: the operation then is the device's named Unimplemented error.
#pragma once

#include "core/device/device.h"

#if defined(TOKENFERRY_CUDA)
#define TF_CUDA_LAUNCHER(launcher) (&launcher)
#else
#define TF_CUDA_LAUNCHER(launcher) nullptr
#endif

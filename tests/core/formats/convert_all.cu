#include "tests/core/formats/convert_all.h"

namespace tokenferry {
namespace {

__global__ void ConvertKernel(Converted* out, uint32_t n, uint32_t stride) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = Convert(i, stride);
}

}  // namespace

void ConvertAll(Converted* out, uint32_t n, uint32_t stride) {
  ConvertKernel<<<(n + 255) / 256, 256>>>(out, n, stride);
}

}  // namespace tokenferry

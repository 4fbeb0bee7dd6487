// The scalar conversions are one source for host and device: every code, and many floats, must give the same bits.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "core/formats/scalar.h"

namespace tokenferry {
namespace {

struct Converted {
  uint32_t bf16, fp16, e4m3, e5m2, ue8m0;                        // the narrow codes of the float with bits i * stride
  float from_bf16, from_fp16, from_e4m3, from_e5m2, from_ue8m0;  // of the code i
};

TF_HOST_DEVICE Converted Convert(uint32_t i, uint32_t stride) {
  const float x = internal::FloatFromBits(i * stride);
  const uint16_t code = static_cast<uint16_t>(i);
  const uint8_t byte = static_cast<uint8_t>(i);
  return {ToBF16(x).bits,      ToFP16(x).bits,      ToF8E4M3(x).bits,      ToF8E5M2(x).bits,      ToUE8M0(x).bits,
          ToFloat(BF16{code}), ToFloat(FP16{code}), ToFloat(F8E4M3{byte}), ToFloat(F8E5M2{byte}), ToFloat(UE8M0{byte})};
}

__global__ void ConvertAll(Converted* out, uint32_t n, uint32_t stride) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = Convert(i, stride);
}

TEST(ScalarCudaTest, DeviceAgreesWithHost) {
  int num_devices = 0;
  if (cudaGetDeviceCount(&num_devices) != cudaSuccess || num_devices == 0) GTEST_SKIP() << "no GPU";
  constexpr uint32_t kNum = 1 << 20, kStride = 4099;
  Converted* device = nullptr;
  ASSERT_EQ(cudaMalloc(&device, kNum * sizeof(Converted)), cudaSuccess);
  ConvertAll<<<kNum / 256, 256>>>(device, kNum, kStride);
  std::vector<Converted> got(kNum);
  ASSERT_EQ(cudaMemcpy(got.data(), device, kNum * sizeof(Converted), cudaMemcpyDeviceToHost), cudaSuccess);
  for (uint32_t i = 0; i < kNum; ++i) {
    const Converted want = Convert(i, kStride);
    ASSERT_EQ(std::memcmp(&got[i], &want, sizeof(want)), 0) << "code or float number " << i;
  }
  EXPECT_EQ(cudaFree(device), cudaSuccess);
}

}  // namespace
}  // namespace tokenferry

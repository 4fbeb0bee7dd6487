// The scalar conversions are one source for host and device: every code, and many floats, must give the same bits.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "tests/core/formats/convert_all.h"

namespace tokenferry {
namespace {

TEST(ScalarCudaTest, DeviceAgreesWithHost) {
  int num_devices = 0;
  if (cudaGetDeviceCount(&num_devices) != cudaSuccess || num_devices == 0) GTEST_SKIP() << "no GPU";
  constexpr uint32_t kNum = 1 << 20, kStride = 4099;
  Converted* device = nullptr;
  ASSERT_EQ(cudaMalloc(&device, kNum * sizeof(Converted)), cudaSuccess);
  ConvertAll(device, kNum, kStride);
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

// What latent attention in bf16 takes, by the shared memory that a block has on the GPU: two stages of keys, one, or
// the kernel without tensor cores.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/device/cpu_device.h"
#include "core/device/cuda_device.h"
#include "tests/fakegpu/cudart/runtime.h"
#include "tests/runtime/attention/latent_mma_problem.h"

namespace tokenferry::latent_mma {
namespace {

using fakegpu::Runtime;
using testing::HasSubstr;

class LatentTilesTest : public testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override { device_ = *CreateCudaDevice({}); }
  void TearDown() override { Runtime::Get().max_shared_bytes = had_bytes_; }

  std::vector<uint8_t> RunWith(size_t shared_bytes, const Problem& problem) {
    Runtime::Get().max_shared_bytes = shared_bytes;
    Runtime::Get().launched.clear();
    return RunAttention(*device_, problem);
  }
  static std::string Launched() {
    std::string names;
    for (const fakegpu::Kernel* kernel : Runtime::Get().launched) names += kernel->name;
    return names;
  }

  std::unique_ptr<Device> device_;
  const size_t had_bytes_ = Runtime::Get().max_shared_bytes;
};

// DeepSeek-V3's widths; all keys, and some. The stages decide no bit; without tensor cores the bits are the CPU's.
TEST_P(LatentTilesTest, FollowTheMemory) {
  const Problem problem = RandomProblem({2, 512, 64}, {130, 0, 200}, 1, GetParam());
  const std::vector<uint8_t> hopper = RunWith(227 << 10, problem);
  EXPECT_THAT(Launched(), HasSubstr("ELi2E"));
  EXPECT_EQ(hopper, RunWith(163 << 10, problem));  // A100's
  EXPECT_THAT(Launched(), HasSubstr("ELi1E"));
  const std::vector<uint8_t> small = RunWith(99 << 10, problem);
  EXPECT_THAT(Launched(), HasSubstr("LatentAttentionKernel"));
  EXPECT_NE(hopper, small);
  EXPECT_EQ(small, RunAttention(*CreateCpuDevice({.kernels = KernelSet::kReference}), problem));
}

INSTANTIATE_TEST_SUITE_P(NumSelected, LatentTilesTest, testing::Values(0, 70));

}  // namespace
}  // namespace tokenferry::latent_mma

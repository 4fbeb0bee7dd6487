// What latent attention in bf16 takes, by the shared memory that a block has on the GPU: two stages of keys, one, or
// the kernel without tensor cores.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/device/cpu_device.h"
#include "core/device/cuda_device.h"
#include "tests/fakegpu/cudart/runtime.h"
#include "tests/runtime/attention/grouped_mma_problem.h"
#include "tests/runtime/attention/latent_mma_problem.h"

namespace tokenferry {
namespace {

using fakegpu::Runtime;
using testing::HasSubstr;

constexpr size_t kHopperBytes = 227 << 10, kA100Bytes = 163 << 10, kSmallBytes = 99 << 10;  // sm_90, 80; 86, 89, 120

class AttentionTilesTest : public testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override { device_ = *CreateCudaDevice({}); }
  void TearDown() override { Runtime::Get().max_shared_bytes = had_bytes_; }

  template <class Problem>
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
TEST_P(AttentionTilesTest, LatentFollowsTheMemory) {
  const auto problem = latent_mma::RandomProblem({2, 512, 64}, {130, 0, 200}, 1, GetParam());
  const std::vector<uint8_t> hopper = RunWith(kHopperBytes, problem);
  EXPECT_THAT(Launched(), HasSubstr("LatentAttentionMmaILb" + std::to_string(GetParam() > 0) + "ELi2E"));
  EXPECT_EQ(hopper, RunWith(kA100Bytes, problem));
  EXPECT_THAT(Launched(), HasSubstr("LatentAttentionMmaILb" + std::to_string(GetParam() > 0) + "ELi1E"));
  const std::vector<uint8_t> small = RunWith(kSmallBytes, problem);
  EXPECT_THAT(Launched(), HasSubstr("LatentAttentionKernel"));
  EXPECT_NE(hopper, small);
  EXPECT_EQ(small, RunAttention(*CreateCpuDevice({.kernels = KernelSet::kReference}), problem));
}

INSTANTIATE_TEST_SUITE_P(NumSelected, AttentionTilesTest, testing::Values(0, 70));

TEST_F(AttentionTilesTest, GroupedFollowsTheMemory) {
  const auto problem = grouped_mma::RandomProblem({3, 1, 256}, {130, 0, 200}, 1);
  const std::vector<uint8_t> large = RunWith(kA100Bytes, problem);
  EXPECT_THAT(Launched(), HasSubstr("GroupedAttentionMmaILi2E"));
  EXPECT_EQ(large, RunWith(kSmallBytes, problem));
  EXPECT_THAT(Launched(), HasSubstr("GroupedAttentionMmaILi1E"));
}

}  // namespace
}  // namespace tokenferry

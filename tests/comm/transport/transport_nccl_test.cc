// The conformance suite over NCCL, on as many ranks as there are GPUs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/transport/local_transport.h"
#include "comm/transport/nccl/nccl_transport.h"
#include "core/device/cpu_device.h"
#include "tests/comm/transport/conformance.h"
#include "tests/comm/transport/nccl_group.h"

namespace tokenferry {
namespace {

using testing::HasSubstr;

class NcclConformance : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (MostNcclRanks() < GetParam()) GTEST_SKIP() << GetParam() << " ranks need a GPU each, and NCCL";
  }
};

TEST_P(NcclConformance, OfHostMemory) {
  for (int i = 0; i < kNumConformanceCases; ++i) {
    SCOPED_TRACE(kConformanceCases[i].name);
    RunNcclThreads(GetParam(), absl::Seconds(30), [&](Transport& t, Device&) { kConformanceCases[i].body(t); });
  }
}

TEST_P(NcclConformance, OfDeviceMemory) {
  for (int i = 0; i < kNumDeviceConformanceCases; ++i) {
    SCOPED_TRACE(kDeviceConformanceCases[i].name);
    RunNcclThreads(GetParam(), absl::Seconds(30), kDeviceConformanceCases[i].body);
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, NcclConformance, testing::Values(1, 2, 3), testing::PrintToStringParamName());

TEST(NcclTransport, RefusesADeviceThatIsNoGpu) {
  auto group = CreateLocalGroup(1);
  auto device = CreateCpuDevice({});
  const auto transport = CreateNcclTransport(*group[0], *device);
  EXPECT_EQ(transport.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(transport.status().message(), HasSubstr("rows lie on cpu"));
}

}  // namespace
}  // namespace tokenferry

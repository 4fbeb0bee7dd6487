// The fakes find what they are there for: each planted bug is reported by its rule, and the same code without it is
// not.
#include "tests/fakegpu/planted.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

#include "tests/fakegpu/cudart/runtime.h"
#include "tests/fakegpu/snippet.h"

namespace tokenferry::fakegpu {
namespace {

using ::testing::HasSubstr;

// A failed device works again, and tells why it failed.
std::string TakeFault() {
  Runtime& runtime = Runtime::Get();
  cudaDeviceSynchronize();
  runtime.sticky = cudaSuccess;
  cudaGetLastError();
  return std::exchange(runtime.fault, "");
}

class DeviceFloats {
 public:
  explicit DeviceFloats(const std::vector<float>& values) : size_(values.size()) {
    EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&data_), size_ * sizeof(float)), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(data_, values.data(), size_ * sizeof(float), cudaMemcpyDefault), cudaSuccess);
  }
  ~DeviceFloats() { cudaFree(data_); }
  float* get() { return data_; }
  std::vector<float> Read() {
    std::vector<float> values(size_);
    EXPECT_EQ(cudaMemcpy(values.data(), data_, size_ * sizeof(float), cudaMemcpyDefault), cudaSuccess);
    return values;
  }

 private:
  float* data_ = nullptr;
  size_t size_;
};

std::vector<float> Ramp(int size) {
  std::vector<float> values(size);
  std::iota(values.begin(), values.end(), 1.0f);
  return values;
}

struct Planted {
  const char* name;
  PlantedKernel run;
  const char* report;
};

class PlantedTest : public testing::TestWithParam<Planted> {};

TEST_P(PlantedTest, IsReported) {
  for (int seed = 0; seed < 10; ++seed) {
    DeviceFloats in(Ramp(kPlantedThreads)), out(std::vector<float>(kPlantedThreads, -1));
    GetParam().run(Bug::kPlanted, in.get(), out.get(), nullptr);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure) << "run " << seed;
    const std::string fault = TakeFault();
    EXPECT_THAT(fault, HasSubstr(GetParam().report));
    EXPECT_THAT(fault, HasSubstr(GetParam().name));
    EXPECT_THAT(fault, HasSubstr("line"));
  }
}

TEST_P(PlantedTest, IsSilentWithoutTheBug) {
  for (int seed = 0; seed < 10; ++seed) {
    DeviceFloats in(Ramp(kPlantedThreads)), out(std::vector<float>(kPlantedThreads, -1));
    GetParam().run(Bug::kNone, in.get(), out.get(), nullptr);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess) << TakeFault();
    EXPECT_NE(out.Read()[3], -1) << "it did nothing";
  }
}

INSTANTIATE_TEST_SUITE_P(
    Kernels, PlantedTest,
    testing::Values(Planted{"ReverseInBlock", ReverseInBlock, "shared memory at"},  // nothing is there yet, or a race
                    Planted{"SumInTiles", SumInTiles, "race in shared memory"},
                    Planted{"CopyPastEnd", CopyPastEnd, "global memory out of bounds"},
                    Planted{"BarrierUnderDivergence", BarrierUnderDivergence, "divergent barrier"},
                    Planted{"CopyAsync", CopyAsync, "before the wait for cp.async"},
                    Planted{"CopyAsyncInTiles", CopyAsyncInTiles, "shared memory at"},
                    Planted{"LoadMatrix", LoadMatrix, "shared memory"},
                    Planted{"ReadUnwrittenShared", ReadUnwrittenShared, "uninitialised shared memory"},
                    Planted{"ReverseInWarp", ReverseInWarp, "race in shared memory"},
                    Planted{"ShuffleOfTooMany", ShuffleOfTooMany, "member mask"},
                    Planted{"LoadMisaligned", LoadMisaligned, "misaligned"},
                    Planted{"LeaveBeforeBarrier", LeaveBeforeBarrier, "divergent barrier"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(InterpreterTest, ARegisterWithoutAValueIsReported) {
  EXPECT_THROW(RunSnippet("add.s32 %r0, %r1, %r19;", {{1, 2, 3}}, 1), KernelFault);
  // Passing it on is no use of it, nor is a selection that does not take it.
  EXPECT_EQ(
      RunSnippet("mov.b32 %r18, %r19; setp.eq.s32 %p1, %r1, %r1; selp.b32 %r0, %r1, %r18, %p1;", {{1, 2, 3}}, 1)[0],
      1u);
}

TEST(InterpreterTest, AKernelThatDoesNotEndIsReported) {
  try {
    RunSnippet("mov.u32 %r0, 0; $Again: bra.uni $Again;", {{1, 2, 3}}, 1);
    ADD_FAILURE() << "it ended";
  } catch (const KernelFault& fault) {
    EXPECT_THAT(fault.what(), HasSubstr("does not end"));
  }
}

TEST(StreamTest, AMissingWaitIsAWrongResult) {
  // One stream writes, another reads: with an event between them it is right; without, the reader sees what was there
  // before.
  constexpr int kSize = 100;
  for (const bool waits : {true, false}) {
    DeviceFloats in(Ramp(kSize)), middle(std::vector<float>(kSize, -1)), out(std::vector<float>(kSize, -1));
    cudaStream_t writer, reader;
    cudaEvent_t written;
    ASSERT_EQ(cudaStreamCreateWithFlags(&writer, cudaStreamNonBlocking), cudaSuccess);
    ASSERT_EQ(cudaStreamCreateWithFlags(&reader, cudaStreamNonBlocking), cudaSuccess);
    ASSERT_EQ(cudaEventCreateWithFlags(&written, cudaEventDisableTiming), cudaSuccess);
    DoubleAll(in.get(), middle.get(), kSize, writer);
    ASSERT_EQ(cudaEventRecord(written, writer), cudaSuccess);
    if (waits) cudaStreamWaitEvent(reader, written, 0);
    DoubleAll(middle.get(), out.get(), kSize, reader);
    ASSERT_EQ(cudaStreamSynchronize(reader), cudaSuccess);
    EXPECT_EQ(out.Read()[9] == 40.0f, waits) << out.Read()[9];
    cudaDeviceSynchronize();
    cudaEventDestroy(written);
    cudaStreamDestroy(writer);
    cudaStreamDestroy(reader);
  }
}

TEST(StreamTest, PinnedMemoryIsReadWhenTheStreamComesToIt) {
  float* pinned = nullptr;
  ASSERT_EQ(cudaMallocHost(reinterpret_cast<void**>(&pinned), sizeof(float)), cudaSuccess);
  DeviceFloats device({0});
  cudaStream_t stream;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  *pinned = 1;
  ASSERT_EQ(cudaMemcpyAsync(device.get(), pinned, sizeof(float), cudaMemcpyDefault, stream), cudaSuccess);
  *pinned = 2;  // the bug: the copy has not run
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(device.Read()[0], 2);
  cudaStreamDestroy(stream);
  cudaFreeHost(pinned);
}

TEST(StreamTest, AGraphRepeatsWhatWasCaptured) {
  constexpr int kSize = 70;
  DeviceFloats in(Ramp(kSize)), middle(std::vector<float>(kSize, -1)), out(std::vector<float>(kSize, -1));
  cudaStream_t stream, side;
  cudaEvent_t fork, join;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  ASSERT_EQ(cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking), cudaSuccess);
  ASSERT_EQ(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming), cudaSuccess);
  ASSERT_EQ(cudaEventCreateWithFlags(&join, cudaEventDisableTiming), cudaSuccess);
  for (const bool joins : {true, false}) {
    ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
    DoubleAll(in.get(), middle.get(), kSize, stream);
    cudaEventRecord(fork, stream);
    cudaStreamWaitEvent(side, fork, 0);
    DoubleAll(middle.get(), out.get(), kSize, side);
    cudaEventRecord(join, side);
    if (joins) cudaStreamWaitEvent(stream, join, 0);
    void* none = nullptr;
    EXPECT_EQ(cudaMalloc(&none, 8), cudaErrorStreamCaptureUnsupported);
    cudaGraph_t graph = nullptr;
    EXPECT_EQ(cudaStreamEndCapture(stream, &graph), joins ? cudaSuccess : cudaErrorStreamCaptureUnjoined);
    if (!joins) continue;
    EXPECT_EQ(out.Read()[9], -1) << "capturing runs nothing";
    cudaGraphExec_t executable = nullptr;
    ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
    for (float first : {1.0f, 5.0f}) {
      std::vector<float> values(kSize, first);
      cudaMemcpy(in.get(), values.data(), kSize * sizeof(float), cudaMemcpyDefault);
      ASSERT_EQ(cudaGraphLaunch(executable, stream), cudaSuccess);
      ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
      EXPECT_EQ(out.Read()[9], 4 * first);
    }
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
  }
  cudaStreamDestroy(stream);
  cudaStreamDestroy(side);
  cudaEventDestroy(fork);
  cudaEventDestroy(join);
}

TEST(RuntimeTest, RefusesWhatCudaRefuses) {
  EXPECT_EQ(LaunchEmpty(0, 32, 0, nullptr), cudaErrorInvalidConfiguration);
  EXPECT_EQ(LaunchEmpty(1, 0, 0, nullptr), cudaErrorInvalidConfiguration);
  EXPECT_EQ(LaunchEmpty(1, 1025, 0, nullptr), cudaErrorInvalidConfiguration);
  EXPECT_EQ(LaunchEmpty(1, 32, (48 << 10) + 1, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(AllowShared(228 << 10), cudaErrorInvalidValue);
  cudaGetLastError();
  EXPECT_EQ(AllowShared(164 << 10), Runtime::Get().arch == 80 ? cudaErrorInvalidValue : cudaSuccess);
  EXPECT_EQ(AllowShared(100 << 10), cudaSuccess);
  cudaGetLastError();
  EXPECT_EQ(LaunchEmpty(1, 32, 100 << 10, nullptr), cudaSuccess);
  void* data = nullptr;
  EXPECT_EQ(cudaMalloc(&data, DeviceMemory::kTotalBytes + 1), cudaErrorMemoryAllocation);
  cudaGetLastError();
}

TEST(RuntimeTest, ACopyBeyondItsMemoryIsReportedAndTheDeviceStaysFailed) {
  DeviceFloats device({1, 2});
  std::vector<float> host(3);
  EXPECT_EQ(cudaMemcpy(host.data(), device.get(), 3 * sizeof(float), cudaMemcpyDefault), cudaErrorLaunchFailure);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
  EXPECT_THAT(TakeFault(), HasSubstr("copy or fill of 12 bytes out of bounds"));
}

TEST(RuntimeTest, FreedMemoryIsNamed) {
  float* in = nullptr;
  ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&in), 64 * sizeof(float)), cudaSuccess);
  ASSERT_EQ(cudaFree(in), cudaSuccess);
  DeviceFloats out(std::vector<float>(64, 0));
  DoubleAll(in, out.get(), 64, nullptr);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorLaunchFailure);
  EXPECT_THAT(TakeFault(), HasSubstr("that was freed"));
}

TEST(RuntimeDeathTest, TheHostMayNotDereferenceDeviceMemory) {
  DeviceFloats device({1});
  EXPECT_DEATH(
      {
        volatile float x = *device.get();
        static_cast<void>(x);
      },
      "the host dereferenced device memory");
}

}  // namespace
}  // namespace tokenferry::fakegpu

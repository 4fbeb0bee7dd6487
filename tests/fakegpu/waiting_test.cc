// Kernels that wait for other streams, threads and processes, and memory that processes share (cudaIpc).
#include "tests/fakegpu/waiting.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "tests/fakegpu/cudart/runtime.h"

namespace tokenferry::fakegpu {
namespace {

using Word = unsigned long long;  // NOLINT: the type of CUDA's 64-bit atomics

constexpr const char* kHandleVariable = "TF_WAITING_TEST_HANDLE";

class DeviceWord {
 public:
  DeviceWord() {
    EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&data_), sizeof(Word)), cudaSuccess);
    EXPECT_EQ(cudaMemset(data_, 0, sizeof(Word)), cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }
  ~DeviceWord() { cudaFree(data_); }
  Word* get() const { return data_; }
  Word Read() const {
    Word value = 0;
    EXPECT_EQ(cudaMemcpy(&value, data_, sizeof value, cudaMemcpyDefault), cudaSuccess);
    return value;
  }

 private:
  Word* data_ = nullptr;
};

cudaStream_t NewStream() {
  cudaStream_t stream = nullptr;
  EXPECT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  return stream;
}

int64_t NumLaunches() {
  Runtime& runtime = Runtime::Get();
  const std::lock_guard lock(runtime.mutex);
  return runtime.num_launches;
}

TEST(WaitingTest, AKernelWaitsForAnotherStreamThatNobodySynchronizes) {
  DeviceWord flag;
  const cudaStream_t waits = NewStream(), raises = NewStream();
  WaitFor(flag.get(), 1, waits);
  Raise(flag.get(), raises);
  EXPECT_EQ(cudaStreamSynchronize(waits), cudaSuccess);
  EXPECT_EQ(flag.Read(), 1u);
  cudaStreamDestroy(waits);
  cudaStreamDestroy(raises);
}

TEST(WaitingTest, AKernelWaitsForWhatAnotherThreadLaunchesLater) {
  DeviceWord flag;
  const int64_t before = NumLaunches();
  std::thread waiter([&] {
    const cudaStream_t stream = NewStream();
    WaitFor(flag.get(), 1, stream);
    Raise(flag.get(), stream);
    EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    cudaStreamDestroy(stream);
  });
  while (NumLaunches() == before) std::this_thread::yield();  // until the kernel has begun
  const cudaStream_t stream = NewStream();
  EXPECT_EQ(cudaStreamQuery(stream), cudaSuccess) << "its own stream is idle";
  Raise(flag.get(), stream);
  WaitFor(flag.get(), 2, stream);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  waiter.join();
  EXPECT_EQ(flag.Read(), 2u);
  cudaStreamDestroy(stream);
}

TEST(WaitingTest, AStreamOfAWaitingKernelIsNotReady) {
  DeviceWord flag;
  const cudaStream_t waits = NewStream(), raises = NewStream();
  WaitFor(flag.get(), 1, waits);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(cudaStreamQuery(waits), cudaErrorNotReady);
  Raise(flag.get(), raises);
  EXPECT_EQ(cudaStreamSynchronize(waits), cudaSuccess);
  cudaGetLastError();
  cudaStreamDestroy(waits);
  cudaStreamDestroy(raises);
}

TEST(WaitingTest, AGraphThatWaitsCanBeRepeated) {
  DeviceWord flag;
  const cudaStream_t stream = NewStream(), raises = NewStream();
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  WaitFor(flag.get(), 1, stream);
  Raise(flag.get(), stream);
  std::thread other([] {  // may allocate meanwhile
    void* data = nullptr;
    EXPECT_EQ(cudaMalloc(&data, 8), cudaSuccess);
    cudaFree(data);
  });
  other.join();
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  cudaGraphExec_t executable = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
  for (Word round = 1; round <= 3; ++round) {
    ASSERT_EQ(cudaGraphLaunch(executable, stream), cudaSuccess);
    if (round == 1) Raise(flag.get(), raises);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    EXPECT_EQ(flag.Read(), round + 1);
  }
  cudaGraphExecDestroy(executable);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  cudaStreamDestroy(raises);
}

TEST(CaptureTest, AWaitForAnEventFromOutsideEndsTheCapture) {
  const cudaStream_t stream = NewStream(), other = NewStream();
  cudaEvent_t outside = nullptr, inside = nullptr, never = nullptr;
  for (cudaEvent_t* event : {&outside, &inside, &never}) ASSERT_EQ(cudaEventCreate(event), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(outside, other), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(other), cudaSuccess);
  const auto capture = [&](cudaEvent_t event) {
    EXPECT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    EXPECT_EQ(cudaEventRecord(inside, stream), cudaSuccess);
    EXPECT_EQ(cudaStreamWaitEvent(other, inside, 0), cudaSuccess) << "a stream joins";
    const cudaError_t waits = cudaStreamWaitEvent(other, event, 0);
    EXPECT_EQ(cudaEventRecord(inside, other), cudaSuccess);
    EXPECT_EQ(cudaStreamWaitEvent(stream, inside, 0), cudaSuccess) << "and comes back";
    cudaGraph_t graph = nullptr;
    const cudaError_t ends = cudaStreamEndCapture(stream, &graph);
    EXPECT_EQ(graph != nullptr, ends == cudaSuccess);
    cudaGraphDestroy(graph);
    cudaGetLastError();
    return std::make_pair(waits, ends);
  };
  EXPECT_EQ(capture(inside), std::make_pair(cudaSuccess, cudaSuccess));
  EXPECT_EQ(capture(never), std::make_pair(cudaSuccess, cudaSuccess));
  EXPECT_EQ(capture(outside), std::make_pair(cudaErrorStreamCaptureIsolation, cudaErrorStreamCaptureInvalidated));
  for (const cudaEvent_t event : {outside, inside, never}) cudaEventDestroy(event);
  cudaStreamDestroy(stream);
  cudaStreamDestroy(other);
}

// Fills until one fails, and how many there were.
std::pair<cudaError_t, int> FillUntilRefused(void* data, int most, cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  int num_fills = 0;
  for (; num_fills < most && error == cudaSuccess; ++num_fills) error = cudaMemsetAsync(data, 0, 8, stream);
  return {error, num_fills};
}

TEST(FullQueueTest, ALaunchWaitsUntilThereIsRoom) {
  DeviceWord flag, filled;
  const cudaStream_t waits = NewStream(), raises = NewStream();
  WaitFor(flag.get(), 1, waits);
  const int room = WorkQueue::kMostPending - 1;
  EXPECT_EQ(FillUntilRefused(filled.get(), room, waits), std::make_pair(cudaSuccess, room));
  std::atomic<bool> was_raised = false;
  std::thread raiser([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    was_raised.store(true);
    Raise(flag.get(), raises);
    EXPECT_EQ(cudaStreamSynchronize(raises), cudaSuccess);
  });
  EXPECT_EQ(cudaMemsetAsync(filled.get(), 0, 8, waits), cudaSuccess);
  EXPECT_TRUE(was_raised.load());
  raiser.join();
  EXPECT_EQ(cudaStreamSynchronize(waits), cudaSuccess);
  cudaStreamDestroy(waits);
  cudaStreamDestroy(raises);
}

TEST(FullQueueTest, ALaunchThatWouldWaitForEverIsTold) {
  DeviceWord flag, filled;
  const cudaStream_t waits = NewStream(), raises = NewStream();
  Runtime& runtime = Runtime::Get();
  runtime.queue.MostBlocked(std::chrono::milliseconds(20));
  WaitFor(flag.get(), 1, waits);
  const int room = WorkQueue::kMostPending;
  EXPECT_EQ(FillUntilRefused(filled.get(), 2 * room, waits), std::make_pair(cudaErrorLaunchFailure, room));
  EXPECT_NE(runtime.fault.find("1024 are pending"), std::string::npos) << runtime.fault;
  runtime.queue.MostBlocked(std::chrono::minutes(1));
  runtime.sticky = cudaSuccess;
  cudaGetLastError();
  Raise(flag.get(), raises);
  EXPECT_EQ(cudaStreamSynchronize(waits), cudaSuccess);
  cudaStreamDestroy(waits);
  cudaStreamDestroy(raises);
}

// Runs a test of this program in a process of its own, with `environment` set; its exit code.
pid_t StartTest(const std::string& filter, const std::vector<std::string>& environment) {
  char path[4096] = "";
  if (readlink("/proc/self/exe", path, sizeof path - 1) < 0) return -1;
  std::vector<std::string> words = environment;
  std::string argument = absl::StrCat("--gtest_filter=", filter);
  const pid_t child = fork();
  if (child != 0) return child;
  for (std::string& word : words) putenv(word.data());
  char* const arguments[] = {path, argument.data(), nullptr};
  execv(path, arguments);
  _exit(127);
}

int ExitCode(pid_t child) {
  int status = 0;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

std::string HandleVariable(const cudaIpcMemHandle_t& handle) {
  return absl::StrCat(kHandleVariable, "=",
                      absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(&handle), sizeof handle)));
}

// Of the other process: null where this process is none.
bool GivenHandle(cudaIpcMemHandle_t* handle) {
  const char* text = std::getenv(kHandleVariable);
  if (text == nullptr) return false;
  const std::string bytes = absl::HexStringToBytes(text);
  std::memcpy(handle, bytes.data(), sizeof *handle);
  return true;
}

TEST(IpcTest, ProcessesWaitForEachOther) {
  DeviceWord flag;
  cudaIpcMemHandle_t handle;
  ASSERT_EQ(cudaIpcGetMemHandle(&handle, flag.get()), cudaSuccess);
  const pid_t child = StartTest("IpcTest.AnswersAnotherProcess", {HandleVariable(handle)});
  const cudaStream_t stream = NewStream();
  Raise(flag.get(), stream);
  WaitFor(flag.get(), 2, stream);  // the other one's answer
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(ExitCode(child), 0);
  EXPECT_EQ(flag.Read(), 2u);
  cudaStreamDestroy(stream);
}

TEST(IpcTest, AnswersAnotherProcess) {
  cudaIpcMemHandle_t handle;
  if (!GivenHandle(&handle)) GTEST_SKIP() << "the other half of ProcessesWaitForEachOther";
  void* data = nullptr;
  ASSERT_EQ(cudaIpcOpenMemHandle(&data, handle, cudaIpcMemLazyEnablePeerAccess), cudaSuccess);
  const cudaStream_t stream = NewStream();
  WaitFor(static_cast<Word*>(data), 1, stream);
  Raise(static_cast<Word*>(data), stream);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(cudaIpcCloseMemHandle(data), cudaSuccess);
  EXPECT_EQ(cudaIpcCloseMemHandle(data), cudaErrorInvalidValue);
  cudaGetLastError();
  cudaStreamDestroy(stream);
}

TEST(IpcTest, RefusesWhatCudaRefuses) {
  DeviceWord word;
  cudaIpcMemHandle_t handle;
  ASSERT_EQ(cudaIpcGetMemHandle(&handle, word.get()), cudaSuccess);
  void* data = nullptr;
  EXPECT_EQ(cudaIpcOpenMemHandle(&data, handle, cudaIpcMemLazyEnablePeerAccess), cudaErrorDeviceUninitialized)
      << "memory of the process itself";
  Word on_host = 0;
  EXPECT_EQ(cudaIpcGetMemHandle(&handle, &on_host), cudaErrorInvalidValue);
  cudaGetLastError();
  ASSERT_EQ(cudaIpcGetMemHandle(&handle, word.get()), cudaSuccess);
  EXPECT_EQ(ExitCode(StartTest("IpcTest.IsRefusedInAContainer", {HandleVariable(handle), "TF_FAKEGPU_IPC=refused"})),
            0);
}

TEST(IpcTest, IsRefusedInAContainer) {
  cudaIpcMemHandle_t handle;
  if (!GivenHandle(&handle)) GTEST_SKIP() << "the other half of RefusesWhatCudaRefuses";
  void* data = nullptr;
  EXPECT_EQ(cudaIpcOpenMemHandle(&data, handle, cudaIpcMemLazyEnablePeerAccess), cudaErrorMapBufferObjectFailed);
}

}  // namespace
}  // namespace tokenferry::fakegpu

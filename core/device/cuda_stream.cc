#include "core/device/cuda_stream.h"

#include <cstring>

#include "core/check.h"
#include "core/device/cuda_status.h"
#include "core/host/wait.h"
#include "core/log.h"

namespace tokenferry {
namespace {

constexpr size_t kStagingBytes = size_t{4} << 20;
constexpr size_t kStagingAlign = 256;
// Of what is enqueued: three periods may be pending, and what libraries such as NCCL enqueue beside it, uncounted.
constexpr int64_t kMarkPeriod = 192;

}  // namespace

void CudaStreams::WarnOnce(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess || has_warned_) return;
  has_warned_ = true;
  WarnOnCudaError(error, what);
}

CudaStream::CudaStream(Device& device, int ordinal, cudaStream_t stream, CudaStreams& streams)
    : device_(device), ordinal_(ordinal), stream_(stream), streams_(streams) {
  streams_.live.push_back(this);
}

CudaStream::~CudaStream() {
  streams_.WarnOnce(cudaSetDevice(ordinal_), "cudaSetDevice");
  // Of an abandoned stream, work may still read the staging memory, which waiting for it would only show too late.
  if (!is_abandoned_) {
    const absl::Status status = WaitUntilIdle();
    if (!status.ok() && status_.ok()) LogWarning(status.message());  // of an earlier error somebody knows
  }
  std::erase(streams_.live, this);
  streams_.any_abandoned |= is_abandoned_;
  if (staging_ != nullptr && !is_abandoned_) streams_.WarnOnce(cudaFreeHost(staging_), "cudaFreeHost");
  for (const cudaEvent_t mark : marks_) {
    if (mark != nullptr) streams_.WarnOnce(cudaEventDestroy(mark), "cudaEventDestroy");
  }
  streams_.WarnOnce(cudaStreamDestroy(stream_), "cudaStreamDestroy");
}

template <class Work>
void CudaStream::Try(Work work) {
  if (!status_.ok()) return;
  status_ = CudaStatus(cudaSetDevice(ordinal_), "cudaSetDevice");
  if (status_.ok()) status_ = work();
  if (status_.ok()) status_ = LimitPending();
}

void CudaStream::CopyToDevice(void* dst, const void* src, size_t num_bytes) {
  if (num_bytes == 0) return;
  Try([&] { return CopyStaged(dst, src, num_bytes); });
}

absl::Status CudaStream::CopyStaged(void* dst, const void* src, size_t num_bytes) {
  if (is_capturing_) {  // the graph would read the staging memory when it holds something else
    return absl::FailedPreconditionError(absl::StrCat("a graph cannot hold a copy of ", num_bytes,
                                                      " bytes from the host's memory to ", device_.ToString()));
  }
  if (num_bytes > kStagingBytes) {  // weights: waiting costs less than another pass over the bytes
    TF_RETURN_IF_ERROR(WaitBeforePageableCopy(src));
    TF_RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(dst, src, num_bytes, cudaMemcpyDefault, stream_));
    return WaitUntilIdle();
  }
  if (staging_ == nullptr) TF_RETURN_IF_CUDA_ERROR(cudaMallocHost(&staging_, kStagingBytes));
  if (num_bytes > kStagingBytes - staging_used_) TF_RETURN_IF_ERROR(WaitUntilIdle());
  void* staged = static_cast<char*>(staging_) + staging_used_;
  std::memcpy(staged, src, num_bytes);
  staging_used_ += (num_bytes + kStagingAlign - 1) / kStagingAlign * kStagingAlign;
  TF_RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(dst, staged, num_bytes, cudaMemcpyDefault, stream_));
  return absl::OkStatus();
}

absl::Status CudaStream::WaitBeforePageableCopy(const void* host) {
  if (!IsWaitLimited() || is_capturing_) return absl::OkStatus();
  cudaPointerAttributes attributes;
  TF_RETURN_IF_CUDA_ERROR(cudaPointerGetAttributes(&attributes, host));
  return attributes.type == cudaMemoryTypeUnregistered ? WaitUntilIdle() : absl::OkStatus();
}

void CudaStream::CopyToHost(void* dst, const void* src, size_t num_bytes) {
  if (num_bytes == 0) return;
  Try([&] { return WaitBeforePageableCopy(dst); });
  Copy(dst, src, num_bytes);
}

void CudaStream::Copy(void* dst, const void* src, size_t num_bytes) {
  if (num_bytes == 0) return;
  Try([&] { return CudaStatus(cudaMemcpyAsync(dst, src, num_bytes, cudaMemcpyDefault, stream_), "cudaMemcpyAsync"); });
}

void CudaStream::Fill(void* dst, uint8_t byte, size_t num_bytes) {
  if (num_bytes == 0) return;
  Try([&] { return CudaStatus(cudaMemsetAsync(dst, byte, num_bytes, stream_), "cudaMemsetAsync"); });
}

void CudaStream::LaunchErased(const ErasedOp& op, const void* args, size_t) {
  Try([&]() -> absl::Status {
    if (op.run_cuda == nullptr) {
      return absl::UnimplementedError(absl::StrCat("operation '", op.name, "' has no CUDA kernel yet"));
    }
    return Annotate(op.run_cuda(op.op, args, stream_), absl::StrCat("operation '", op.name, "'"));
  });
}

void CudaStream::Record(Event& event) {
  auto& e = static_cast<CudaEvent&>(event);
  Try([&] { return CudaStatus(cudaEventRecord(e.event, stream_), "cudaEventRecord"); });
  e.recorded = true;
  e.status = status_;
}

void CudaStream::Wait(Event& event) {
  const auto& e = static_cast<CudaEvent&>(event);
  Try([&]() -> absl::Status {
    if (!e.recorded) return absl::FailedPreconditionError("a stream waits for an event that was never recorded");
    TF_RETURN_IF_ERROR(e.status);
    return CudaStatus(cudaStreamWaitEvent(stream_, e.event, 0), "cudaStreamWaitEvent");
  });
}

absl::Status CudaStream::WaitUntilIdle() {
  if (!IsWaitLimited()) {
    TF_RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_));
    staging_used_ = 0;
    return absl::OkStatus();
  }
  TF_RETURN_IF_ERROR(PollWithinLimits([this] { return cudaStreamQuery(stream_); }, "cudaStreamQuery"));
  staging_used_ = 0;
  num_pending_ = 0;
  return CheckWatches();
}

template <class Query>
absl::Status CudaStream::PollWithinLimits(Query query, const char* what) {
  const Deadline deadline = Deadline::After(wait().timeout);
  SpinWait turn;
  for (;;) {
    const cudaError_t error = query();
    if (error != cudaErrorNotReady) return CudaStatus(error, what);
    cudaGetLastError();  // not an error: a later launch must not find it
    if (const absl::Status status = CheckWait(deadline); !status.ok()) {
      is_abandoned_ = true;
      return status;
    }
    turn.Pause();
  }
}

absl::Status CudaStream::LimitPending() {
  if (is_capturing_ || !IsWaitLimited() || ++num_pending_ % kMarkPeriod != 0) return absl::OkStatus();
  cudaEvent_t& mark = marks_[num_pending_ / kMarkPeriod % marks_.size()];
  if (mark == nullptr) {
    TF_RETURN_IF_CUDA_ERROR(cudaEventCreateWithFlags(&mark, cudaEventDisableTiming));
  } else {
    TF_RETURN_IF_ERROR(PollWithinLimits([mark] { return cudaEventQuery(mark); }, "cudaEventQuery"));
  }
  return CudaStatus(cudaEventRecord(mark, stream_), "cudaEventRecord");
}

absl::Status CudaStream::BeginCapture() {
  is_capturing_ = true;  // nothing of this stream's own may come between
  // Of this thread's calls only: ranks may be threads, which allocate when they like.
  Try([&] {
    return CudaStatus(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  });
  is_capturing_ = status_.ok();
  return status_;
}

absl::StatusOr<std::unique_ptr<Graph>> CudaStream::EndCapture() {
  TF_CHECK(is_capturing_ || !status_.ok());
  is_capturing_ = false;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  absl::Status status = CudaStatus(cudaStreamEndCapture(stream_, &graph), "cudaStreamEndCapture");
  if (status.ok()) status = CudaStatus(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
  auto result = status.ok() ? std::make_unique<CudaGraph>(executable, streams_) : nullptr;
  if (graph != nullptr) WarnOnCudaError(cudaGraphDestroy(graph), "cudaGraphDestroy");
  if (status_.ok()) status_ = status;  // what could not be captured is the cause, the end only follows
  if (!status_.ok()) return status_;
  return result;
}

void CudaStream::LaunchGraph(Graph& graph) {
  Try([&] {
    return CudaStatus(cudaGraphLaunch(static_cast<CudaGraph&>(graph).executable, stream_), "cudaGraphLaunch");
  });
}

bool CudaStream::WaitToFree() {
  if (IsWaitLimited()) Synchronize().IgnoreError();  // it sticks
  return !is_abandoned_;
}

absl::Status CudaStream::Synchronize() {
  // Also after an error: what was enqueued before it has completed when this returns, unless the stream was abandoned.
  if (is_abandoned_) return status_;
  const absl::Status status = WaitUntilIdle();
  if (status_.ok()) status_ = status;
  return status_;
}

}  // namespace tokenferry

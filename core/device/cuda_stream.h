// Streams and events of the CUDA device. Private to core/device, compiled with CUDA only.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <vector>

#include "core/device/device.h"

namespace tokenferry {

class CudaStream;

// Of one device.
struct CudaStreams {
  std::vector<CudaStream*> live;
  bool any_abandoned = false;  // one that has ended may have left work that never completes

  // Of what goes: an error of the GPU sticks, so that each buffer, stream and event would tell it again.
  void WarnOnce(cudaError_t error, absl::string_view what);

 private:
  bool has_warned_ = false;
};

class CudaEvent : public Event {
 public:
  CudaEvent(cudaEvent_t event, CudaStreams& streams) : event(event), streams_(streams) {}
  ~CudaEvent() override { streams_.WarnOnce(cudaEventDestroy(event), "cudaEventDestroy"); }

  const cudaEvent_t event;
  bool recorded = false;
  absl::Status status;  // of its stream when it was recorded

 private:
  CudaStreams& streams_;
};

class CudaGraph : public Graph {
 public:
  CudaGraph(cudaGraphExec_t executable, CudaStreams& streams) : executable(executable), streams_(streams) {}
  ~CudaGraph() override { streams_.WarnOnce(cudaGraphExecDestroy(executable), "cudaGraphExecDestroy"); }

  const cudaGraphExec_t executable;

 private:
  CudaStreams& streams_;
};

class CudaStream : public Stream {
 public:
  // Is one of `streams` as long as it lives.
  CudaStream(Device& device, int ordinal, cudaStream_t stream, CudaStreams& streams);
  ~CudaStream() override;

  Device& device() override { return device_; }
  void CopyToDevice(void* dst, const void* src, size_t num_bytes) override;
  void CopyToHost(void* dst, const void* src, size_t num_bytes) override;
  void CopyOnDevice(void* dst, const void* src, size_t num_bytes) override { Copy(dst, src, num_bytes); }
  void Fill(void* dst, uint8_t byte, size_t num_bytes) override;
  void Record(Event& event) override;
  void Wait(Event& event) override;
  absl::Status Synchronize() override;
  absl::Status BeginCapture() override;
  absl::StatusOr<std::unique_ptr<Graph>> EndCapture() override;
  void LaunchGraph(Graph& graph) override;
  void* native() override { return stream_; }
  // Before memory of the device is freed: false when this stream's work may still be under way.
  bool WaitToFree();

 protected:
  void LaunchErased(const ErasedOp& op, const void* args, size_t num_bytes) override;

 private:
  // Runs `work` (returns Status) with the GPU current, unless the stream has failed; keeps the first error.
  template <class Work>
  void Try(Work work);
  void Copy(void* dst, const void* src, size_t num_bytes);
  absl::Status CopyStaged(void* dst, const void* src, size_t num_bytes);
  // A copy from or to pageable memory makes CUDA wait for what the stream holds, for as long as that takes. Waits for
  // it first, where there are limits.
  absl::Status WaitBeforePageableCopy(const void* host);
  // Until the stream is idle, within wait()'s limits.
  absl::Status WaitUntilIdle();
  // The same, until `query` returns something else than cudaErrorNotReady. A limit that ends it abandons the stream.
  template <class Query>
  absl::Status PollWithinLimits(Query query, const char* what);
  // Counts what has been enqueued. CUDA holds the host in a launch while about a thousand are pending, and looks at no
  // limits meanwhile: where there are limits, this waits before it comes to that.
  absl::Status LimitPending();

  Device& device_;
  const int ordinal_;
  const cudaStream_t stream_;
  CudaStreams& streams_;
  absl::Status status_;
  bool is_capturing_ = false;
  bool is_abandoned_ = false;  // a wait was ended by its limits: work is under way that may never complete
  // Pinned memory that copies to the device pass through, so that their source may be reused at once.
  void* staging_ = nullptr;
  size_t staging_used_ = 0;                // since the stream was last known to be idle
  int64_t num_pending_ = 0;                // enqueued since then, at most
  std::array<cudaEvent_t, 2> marks_ = {};  // each behind every second kMarkPeriod of these
};

}  // namespace tokenferry

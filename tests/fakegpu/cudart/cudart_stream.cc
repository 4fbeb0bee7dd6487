// Streams, events and graphs.
#include <algorithm>

#include "tests/fakegpu/cudart/runtime.h"

using namespace tokenferry::fakegpu;  // NOLINT: entry points of C

extern "C" {

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return Call([&](Runtime& runtime) {
    *stream = new CUstream_st;
    (*stream)->device = current_device;
    (*stream)->waits_for_legacy = (flags & cudaStreamNonBlocking) == 0;
    runtime.queue.Add(*stream);
    return cudaSuccess;
  });
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}

// What is in the stream still runs: its work is kept by the queue.
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Runtime& runtime = Runtime::Get();
  const std::lock_guard lock(runtime.mutex);
  runtime.queue.Remove(stream);
  delete stream;
  return runtime.sticky;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return Call([&](Runtime& runtime) {
    QueueStream& s = StreamOf(runtime, stream);
    if (s.capture != nullptr) {
      s.capture->valid = false;
      return cudaErrorStreamCaptureUnsupported;
    }
    runtime.queue.Finish(s.last);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return Call([&](Runtime& runtime) {
    QueueStream& s = StreamOf(runtime, stream);
    if (s.capture != nullptr) return cudaErrorStreamCaptureUnsupported;
    return runtime.queue.Query(s.last) ? cudaSuccess : cudaErrorNotReady;
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  return Call([&](Runtime& runtime) {
    if (runtime.queue.Wait(StreamOf(runtime, stream), *event)) return cudaSuccess;
    return event->capture == nullptr ? cudaErrorStreamCaptureIsolation : cudaErrorStreamCaptureMerge;
  });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return Call([&](Runtime& runtime) {
    runtime.queue.Enqueue(StreamOf(runtime, stream), "host function", [=] { function(data); });
    return cudaSuccess;
  });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return Call([&](Runtime&) {
    *event = new CUevent_st;
    (*event)->device = current_device;
    (*event)->is_timed = (flags & cudaEventDisableTiming) == 0;
    return cudaSuccess;
  });
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  Runtime& runtime = Runtime::Get();
  const std::lock_guard lock(runtime.mutex);
  delete event;
  return runtime.sticky;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return Call([&](Runtime& runtime) {
    QueueStream& s = StreamOf(runtime, stream);
    if (s.device != event->device) return cudaErrorInvalidResourceHandle;
    runtime.queue.Record(s, *event);
    return cudaSuccess;
  });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return Call([&](Runtime& runtime) {
    if (event->capture != nullptr) return cudaErrorStreamCaptureUnsupported;
    runtime.queue.Finish(event->work);
    return cudaSuccess;
  });
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  return Call([&](Runtime& runtime) { return runtime.queue.Query(event->work) ? cudaSuccess : cudaErrorNotReady; });
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  return Call([&](Runtime&) {
    for (const cudaEvent_t event : {from, to}) {
      if (!event->is_timed || event->work == nullptr) return cudaErrorInvalidResourceHandle;
    }
    if (!from->work->done || !to->work->done) return cudaErrorNotReady;
    *milliseconds = static_cast<float>(*to->millis - *from->millis);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  return Call([&](Runtime& runtime) {
    if (stream == nullptr || stream == cudaStreamLegacy) return cudaErrorStreamCaptureUnsupported;
    QueueStream& s = StreamOf(runtime, stream);
    if (s.capture != nullptr) return cudaErrorIllegalState;
    s.capture = std::make_shared<Capture>();
    s.capture->spoiled_by_all = mode == cudaStreamCaptureModeGlobal;
    if (mode != cudaStreamCaptureModeRelaxed) s.capture->thread = std::this_thread::get_id();
    s.is_capture_origin = true;
    s.captured_last.clear();
    return cudaSuccess;
  });
}

// Every node has to lead to the last one of the stream that began: streams that joined have to come back.
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  return Call([&](Runtime& runtime) {
    *graph = nullptr;
    QueueStream& s = StreamOf(runtime, stream);
    if (s.capture == nullptr || !s.is_capture_origin) return cudaErrorStreamCaptureUnmatched;
    const std::shared_ptr<Capture> capture = s.capture;
    const std::vector<GraphNode>& nodes = capture->plan.nodes;
    std::vector<bool> joined(nodes.size(), false);
    for (int last : s.captured_last) joined[last] = true;
    for (size_t i = nodes.size(); i-- > 0;) {
      for (int before : nodes[i].after) joined[before] = joined[before] || joined[i];
    }
    runtime.queue.EndCapture(capture);
    s.is_capture_origin = false;
    if (!capture->valid) return cudaErrorStreamCaptureInvalidated;
    if (std::find(joined.begin(), joined.end(), false) != joined.end()) return cudaErrorStreamCaptureUnjoined;
    *graph = new CUgraph_st{capture->plan};
    return cudaSuccess;
  });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long) {  // NOLINT: CUDA's type
  return Call([&](Runtime&) {
    *executable = new CUgraphExec_st{graph->plan};
    return cudaSuccess;
  });
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  return Call([&](Runtime& runtime) {
    runtime.queue.Launch(StreamOf(runtime, stream), executable->plan);
    return cudaSuccess;
  });
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}

}  // extern "C"

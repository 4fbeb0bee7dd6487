// The Device: memory, in-order streams, events and declared operations. Engine, comm and model code see device memory
// only through it. Backends: CpuDevice (core/device/cpu_device.h), CudaDevice (core/device/cuda_device.h).
//
// Rules that hold on every backend:
//  * A pointer into kDevice memory may be dereferenced only inside an operation. kHost memory may also be read or
//    written by the host, but only after everything enqueued that touches it has completed (Stream::Synchronize).
//  * Work enqueued on a stream runs in order; it may run any time between its enqueueing and the next Synchronize.
//    Nothing is ordered between streams but by events.
//  * An operation's arguments are copied when it is launched; everything they point to must stay alive and unchanged
//    until it has completed.
//  * The first error of a stream sticks: later work is dropped and Synchronize returns that error for ever. An event
//    recorded after the error carries it to the streams that wait for that event.
//  * Copies and fills of 0 bytes do nothing; their pointers may be null.
//  * Buffers, streams and events are destroyed before their Device; a stream completes its work first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/host/clock.h"
#include "core/host/isa.h"
#include "core/host/thread_pool.h"
#include "core/status.h"

namespace tokenferry {

class Device;
class Stream;

enum class DeviceKind : uint8_t { kCpu, kCuda };

enum class MemoryKind : uint8_t {
  kDevice,  // reachable inside operations only
  kHost,    // reachable inside operations and by the host (pinned memory on a GPU); what host transports move
};

// Owns device memory; move-only. Freed on destruction, after everything enqueued on the device has completed.
// Assignment frees what the target held in the same way; the source is empty afterwards. Contents are undefined at
// first.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  void* data() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t num_bytes() const { return num_bytes_; }
  MemoryKind kind() const { return kind_; }

 private:
  friend class Device;
  void Release();

  Device* device_ = nullptr;
  void* data_ = nullptr;
  size_t num_bytes_ = 0;
  MemoryKind kind_ = MemoryKind::kDevice;
};

// What a CPU kernel may use besides its arguments.
struct CpuContext {
  ThreadPool& pool;
  Isa isa;
};

// A declared operation. Constants with static lifetime, one per operation, defined beside its kernels. Args is
// trivially copyable: shapes and pointers, documented where it is declared.
template <class Args>
struct Op {
  const char* name;
  void (*reference)(const Args&);                             // plain, sequential: the meaning
  void (*cpu)(const Args&, CpuContext&);                      // fast; null: the reference is good enough
  absl::Status (*cuda)(const Args&, void* stream) = nullptr;  // launcher, stream is a cudaStream_t; null: none yet
};

// An Op without its type.
struct ErasedOp {
  const char* name;
  const void* op;
  void (*run_reference)(const void* op, const void* args);
  void (*run_cpu)(const void* op, const void* args, CpuContext&);
  absl::Status (*run_cuda)(const void* op, const void* args, void* stream);
};

// A point in a stream's work. Created by Device::CreateEvent; used with the streams of that device; reusable: Record
// marks a new point, which streams that wait already do not notice.
class Event {
 public:
  virtual ~Event() = default;
};

// Whether it still makes sense to wait for work that needs others: a transfer on a stream, which may never end when a
// peer has gone.
class StreamWatch {
 public:
  virtual ~StreamWatch();  // Stream::Watch ends. Too late for a subclass that owns a Buffer: its free may ask.
  // Called again and again by the thread that waits, and once more when the work has completed. An error ends the wait
  // and is the stream's: a peer has failed, the job is asked to stop, or the work itself has found that somebody did
  // not come.
  virtual absl::Status Check() = 0;

 private:
  friend class Stream;
  Stream* stream_ = nullptr;
};

// Work that a stream has captured. It may be launched many times, on any stream of its device: the same operations with
// the same arguments, so that what these point to must still be there.
class Graph {
 public:
  virtual ~Graph() = default;
};

// How a stream is waited for.
struct StreamWait {
  absl::Duration timeout = absl::InfiniteDuration();  // of each wait
  StreamWatch* watch = nullptr;                       // null: none
};

// An in-order queue of work. Not thread-safe: one thread uses a stream at a time.
class Stream {
 public:
  virtual ~Stream();
  virtual Device& device() = 0;

  // Copies `num_bytes`. ToDevice: `src` (any host memory) is read during the call, so it may be reused when the call
  // returns, and work that writes it must have completed before. ToHost: `dst` (any host memory) holds the data after
  // Synchronize. OnDevice: any two buffers of this device, of either kind, not overlapping, read in stream order.
  virtual void CopyToDevice(void* dst, const void* src, size_t num_bytes) = 0;
  virtual void CopyToHost(void* dst, const void* src, size_t num_bytes) = 0;
  virtual void CopyOnDevice(void* dst, const void* src, size_t num_bytes) = 0;
  virtual void Fill(void* dst, uint8_t byte, size_t num_bytes) = 0;

  // Enqueues `op`. Its Args are copied.
  template <class Args>
  void Launch(const Op<Args>& op, const Args& args) {
    static_assert(std::is_trivially_copyable_v<Args>, "operation arguments travel by memcpy");
    static_assert(sizeof(Args) <= kMaxArgsBytes, "operation arguments are too large");
    static_assert(alignof(Args) <= alignof(std::max_align_t), "operation arguments are over-aligned");
    const ErasedOp erased{
        op.name, &op,
        [](const void* o, const void* a) { static_cast<const Op<Args>*>(o)->reference(*static_cast<const Args*>(a)); },
        op.cpu == nullptr
            ? nullptr
            : +[](const void* o, const void* a,
                  CpuContext& c) { static_cast<const Op<Args>*>(o)->cpu(*static_cast<const Args*>(a), c); },
        op.cuda == nullptr
            ? nullptr
            : +[](const void* o, const void* a,
                  void* s) { return static_cast<const Op<Args>*>(o)->cuda(*static_cast<const Args*>(a), s); }};
    LaunchErased(erased, &args, sizeof(Args));
  }

  // Marks this point of the stream / lets later work of this stream wait for the point that `event` marks now. Waiting
  // for an event that was never recorded is an error of this stream (FailedPrecondition): on a GPU it would not wait.
  virtual void Record(Event& event) = 0;
  virtual void Wait(Event& event) = 0;

  // Returns when everything enqueued has completed, with the stream's first error; or when SetWait's limits end the
  // wait: with DeadlineExceeded or the watch's error, which is then the stream's. In that case work may still be under
  // way: what it uses must stay until whoever owns the watch has ended it.
  virtual absl::Status Synchronize() = 0;

  // For every later Synchronize, and wherever else this stream makes the host wait. Set by whoever owns what the work
  // waits for, such as a transport whose transfers run on the stream. The watch must outlive the stream, or be taken
  // back with SetWait({}). Without limits, as at first, a stream is waited for as long as it takes.
  void SetWait(const StreamWait& wait) { wait_ = wait; }
  // One more watch of this stream's waits, until either of the two ends. Again for the same stream: nothing changes;
  // for another: the watch goes there.
  void Watch(StreamWatch& watch);

  // What is enqueued from BeginCapture on becomes part of a graph instead of being run; it neither waits nor allocates,
  // and copies between device memory and kHost memory only. Unimplemented on the CPU. An error of EndCapture is also
  // the stream's.
  virtual absl::Status BeginCapture();
  virtual absl::StatusOr<std::unique_ptr<Graph>> EndCapture();
  virtual void LaunchGraph(Graph& graph);

  // The cudaStream_t, for libraries that enqueue work of their own; null on the CPU.
  virtual void* native() = 0;

  static constexpr size_t kMaxArgsBytes = 512;

 protected:
  virtual void LaunchErased(const ErasedOp& op, const void* args, size_t num_bytes) = 0;

  const StreamWait& wait() const { return wait_; }
  // Whether waits have to look at anything but the work.
  bool IsWaitLimited() const;
  // While work is pending: OK to go on waiting until `deadline`, which is wait().timeout after the wait's start.
  absl::Status CheckWait(Deadline deadline);
  // The part of it that is also done when the work has completed.
  absl::Status CheckWatches();

 private:
  friend class StreamWatch;

  StreamWait wait_;
  std::vector<StreamWatch*> watches_;
};

class Device {
 public:
  virtual ~Device();
  virtual DeviceKind kind() const = 0;
  virtual std::string ToString() const = 0;

  // `label` names the buffer in errors and in the memory report. At least 64-byte aligned; 0 bytes give a null pointer.
  // ResourceExhausted, naming label and sizes, when there is not enough memory.
  absl::StatusOr<Buffer> Allocate(size_t num_bytes, MemoryKind kind, absl::string_view label);

  virtual absl::StatusOr<std::unique_ptr<Stream>> CreateStream() = 0;
  virtual absl::StatusOr<std::unique_ptr<Event>> CreateEvent() = 0;

  // Shares kDevice memory with other ranks of this host: Export gives bytes with which their devices Import it. The
  // memory of one is then reachable inside the operations of the other for as long as the pointer is kept, which must
  // go before its device; among processes also no longer than the buffer lives (CUDA leaves open what happens then;
  // among threads of one process the memory stays). FailedPrecondition, saying what to do, where it is not allowed: on
  // the CPU among processes and in trap mode, and on GPUs among threads that share one, where whoever frees memory
  // would wait for the others' work on the same GPU, which may wait for his.
  virtual absl::StatusOr<std::string> Export(const Buffer& buffer) = 0;
  virtual absl::StatusOr<std::shared_ptr<void>> Import(absl::string_view exported) = 0;

  // How many buffers have been freed: a graph whose arguments lie in buffers of this device is good while it stays.
  int64_t num_frees() const { return num_frees_; }

  // Bytes of all live buffers, and the most there ever were.
  size_t allocated_bytes() const { return allocated_bytes_; }
  size_t peak_allocated_bytes() const { return peak_allocated_bytes_; }

 protected:
  friend class Buffer;
  virtual absl::StatusOr<void*> AllocateMemory(size_t num_bytes, MemoryKind kind) = 0;
  // Completes all enqueued work of the device first.
  virtual void FreeMemory(void* data, size_t num_bytes, MemoryKind kind) = 0;

 private:
  size_t allocated_bytes_ = 0;
  size_t peak_allocated_bytes_ = 0;
  int64_t num_frees_ = 0;
};

}  // namespace tokenferry

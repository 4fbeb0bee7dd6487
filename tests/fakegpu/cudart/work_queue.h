// Streams, events and graphs of the fake GPU: work with its dependencies, run in an order that CUDA allows. A missing
// wait is then a wrong result instead of luck. Not thread-safe: callers hold the runtime's lock.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "tests/fakegpu/ptx/launch.h"

namespace tokenferry::fakegpu {

enum class Order : uint8_t {
  kEager,   // at once
  kLazy,    // when something synchronises, in random order among what is ready
  kRandom,  // ready work runs at random calls
};

// A piece of work that waits is run again: by whoever needs it, after others have been let in.
using WorkBody = std::function<Progress()>;

struct Work {
  std::string name;
  WorkBody run;  // empty: only an order
  // Work that needs other ranks, which may need it too: it goes on whatever its own host asks for.
  bool is_shared = false;
  bool waits = false;  // its last run ended in Progress::kWaits
  std::vector<std::shared_ptr<Work>> after;
  int device = 0;
  bool done = false;
};
using WorkPtr = std::shared_ptr<Work>;

// Work that a graph repeats; `after` are indices of its own nodes.
struct GraphNode {
  std::string name;
  WorkBody run;  // copied for each launch: it has not begun
  std::vector<int> after;
};
struct GraphPlan {
  std::vector<GraphNode> nodes;
};

struct Capture {
  GraphPlan plan;
  bool valid = true;
  bool spoiled_by_all = true;  // also by calls of other threads (cudaStreamCaptureModeGlobal)
  std::thread::id thread;      // that began it
};

struct QueueStream {
  bool waits_for_legacy = true;  // not created with cudaStreamNonBlocking
  int device = 0;
  WorkPtr last;
  std::shared_ptr<Capture> capture;
  bool is_capture_origin = false;
  std::vector<int> captured_last;  // nodes of the capture that the next one comes after
  std::deque<WorkPtr> pending;     // what has been enqueued, but done work at its beginning
};

struct QueueEvent {
  int device = 0;
  bool is_timed = true;
  WorkPtr work;                    // null: never recorded
  std::shared_ptr<double> millis;  // when the work was done, where it is timed
  std::shared_ptr<Capture> capture;
  std::vector<int> captured;
};

// What a host thread does when the work that it asks for cannot go on without others: kPoll: it comes again.
enum class Stuck : uint8_t { kWaits, kPolls };

class WorkQueue {
 public:
  WorkQueue(Order order, uint32_t seed) : order_(order), rng_(seed) {}

  // Adds work to `stream`, or to the graph that it captures. `run` returns Progress, or nothing: it never waits.
  template <class Run>
  void Enqueue(QueueStream& stream, std::string name, Run run) {
    if constexpr (std::is_void_v<std::invoke_result_t<Run&>>) {
      EnqueueBody(stream, std::move(name), [run = std::move(run)]() mutable {
        run();
        return Progress::kEnded;
      });
    } else {
      EnqueueBody(stream, std::move(name), std::move(run));
    }
  }
  // Work of several ranks; not while the stream captures. `has_ended` is asked when everything before it is done, again
  // and again; it does its part, and returns whether the work has ended.
  void EnqueueShared(QueueStream& stream, std::string name, std::function<bool()> has_ended);
  void Record(QueueStream& stream, QueueEvent& event);
  // Nothing for an event that was never recorded, as in CUDA. False when the wait would cross the boundary of a
  // capture, which is lost then.
  bool Wait(QueueStream& stream, const QueueEvent& event);
  void Launch(QueueStream& stream, const GraphPlan& plan);
  void Finish(const WorkPtr& work);  // returns when it is done
  // Does one piece of what `work` needs, as a device goes on while the host asks; true if `work` is done.
  bool Query(const WorkPtr& work);
  void FinishAll(int device);
  void RunSome();  // a chance for ready work, in order kRandom
  // One piece of the work of several ranks, or of what comes before it, which others may be waiting for; false when
  // nothing of that can go on.
  bool RunShared();
  // Called, with the runtime's lock held, when nothing that a thread needs can go on; kWaits: must let others have the
  // lock for a while.
  void OnStuck(std::function<void(Stuck)> on_stuck) { on_stuck_ = std::move(on_stuck); }
  const std::function<void(Stuck)>& on_stuck() const { return on_stuck_; }

  QueueStream& legacy(int device) {
    QueueStream& stream = legacy_[device];
    stream.device = device;
    return stream;
  }
  void Add(QueueStream* stream) { streams_.insert(stream); }
  void Remove(QueueStream* stream) { streams_.erase(stream); }
  bool CallSpoilsCapture() const;                            // a call of this thread that synchronises or allocates
  void EndCapture(const std::shared_ptr<Capture>& capture);  // streams that take part leave it
  void Seed(uint32_t seed) { rng_.seed(seed); }              // another order from here on
  // Like CUDA, a stream holds so much work; who enqueues more waits for the oldest of it. That is an error of the
  // program when nothing goes on for as long as MostBlocked says.
  static constexpr size_t kMostPending = 1024;
  void MostBlocked(std::chrono::milliseconds duration) { most_blocked_ = duration; }
  uint32_t Draw() { return static_cast<uint32_t>(rng_()); }

 private:
  void EnqueueBody(QueueStream& stream, std::string name, WorkBody run);
  WorkPtr Append(QueueStream& stream, Work work);
  void MakeRoom(QueueStream& stream);
  std::vector<WorkPtr> Ready() const;
  // One random piece, which can go on, of `needed` and of what comes before it; false when there is none.
  bool RunOneOf(std::vector<WorkPtr> needed);
  bool RunOneFor(const WorkPtr& work);
  bool RunOneReady(std::vector<WorkPtr> ready);
  bool AnyKernelWaits() const;
  static bool IsReady(const Work& work);
  Progress Execute(const WorkPtr& work);
  void Complete(const WorkPtr& work);

  const Order order_;
  std::mt19937 rng_;
  std::map<int, QueueStream> legacy_;  // by device
  std::function<void(Stuck)> on_stuck_;
  std::set<QueueStream*> streams_;
  std::vector<WorkPtr> pending_;
  std::chrono::milliseconds most_blocked_{60'000};
};

}  // namespace tokenferry::fakegpu

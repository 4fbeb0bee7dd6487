// Streams, events and graphs of the fake GPU: work with its dependencies, run in an order that CUDA allows. A missing
// wait is then a wrong result instead of luck. Not thread-safe: callers hold the runtime's lock.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

namespace tokenferry::fakegpu {

enum class Order : uint8_t {
  kEager,   // at once
  kLazy,    // when something synchronises, in random order among what is ready
  kRandom,  // ready work runs at random calls
};

struct Work {
  std::string name;
  std::function<void()> run;  // empty: only an order
  std::vector<std::shared_ptr<Work>> after;
  bool done = false;
};
using WorkPtr = std::shared_ptr<Work>;

// Work that a graph repeats; `after` are indices of its own nodes.
struct GraphNode {
  std::string name;
  std::function<void()> run;
  std::vector<int> after;
};
struct GraphPlan {
  std::vector<GraphNode> nodes;
};

struct Capture {
  GraphPlan plan;
  bool valid = true;
};

struct QueueStream {
  bool waits_for_legacy = true;  // not created with cudaStreamNonBlocking
  WorkPtr last;
  std::shared_ptr<Capture> capture;
  bool is_capture_origin = false;
  std::vector<int> captured_last;  // nodes of the capture that the next one comes after
};

struct QueueEvent {
  WorkPtr work;  // null: never recorded
  std::shared_ptr<Capture> capture;
  std::vector<int> captured;
};

class WorkQueue {
 public:
  WorkQueue(Order order, uint32_t seed) : order_(order), rng_(seed) {}

  // Adds work to `stream`, or to the graph that it captures.
  void Enqueue(QueueStream& stream, std::string name, std::function<void()> run);
  void Record(QueueStream& stream, QueueEvent& event);
  void Wait(QueueStream& stream, const QueueEvent& event);  // nothing for one that was never recorded, as in CUDA
  void Launch(QueueStream& stream, const GraphPlan& plan);
  void Finish(const WorkPtr& work);  // returns when it is done
  // Does one piece of what `work` needs, as a device goes on while the host asks; true if `work` is done.
  bool Query(const WorkPtr& work);
  void FinishAll();
  void RunSome();  // a chance for ready work, in order kRandom

  QueueStream& legacy() { return legacy_; }
  void Add(QueueStream* stream) { streams_.insert(stream); }
  void Remove(QueueStream* stream) { streams_.erase(stream); }
  bool AnyCaptures() const;
  void EndCapture(const std::shared_ptr<Capture>& capture);  // streams that take part leave it
  uint32_t Draw() { return static_cast<uint32_t>(rng_()); }

 private:
  WorkPtr Append(QueueStream& stream, std::string name, std::function<void()> run, std::vector<WorkPtr> after);
  std::vector<WorkPtr> Ready() const;
  void RunOneFor(const WorkPtr& work);
  static bool IsReady(const Work& work);
  void Execute(const WorkPtr& work);

  const Order order_;
  std::mt19937 rng_;
  QueueStream legacy_;
  std::set<QueueStream*> streams_;
  std::vector<WorkPtr> pending_;
};

}  // namespace tokenferry::fakegpu

#include "tests/fakegpu/cudart/work_queue.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>

namespace tokenferry::fakegpu {

bool WorkQueue::IsReady(const Work& work) {
  return std::all_of(work.after.begin(), work.after.end(), [](const WorkPtr& w) { return w->done; });
}

std::vector<WorkPtr> WorkQueue::Ready() const {
  std::vector<WorkPtr> ready;
  for (const WorkPtr& work : pending_) {
    if (!work->done && IsReady(*work)) ready.push_back(work);
  }
  return ready;
}

void WorkQueue::Complete(const WorkPtr& work) {
  work->done = true;
  work->after.clear();
  work->run = nullptr;
  std::erase(pending_, work);
}

// Work that breaks a rule is over.
Progress WorkQueue::Execute(const WorkPtr& work) {
  try {
    const Progress progress = work->run ? work->run() : Progress::kEnded;
    work->waits = progress == Progress::kWaits;
    if (work->waits) return progress;
  } catch (...) {
    Complete(work);
    throw;
  }
  Complete(work);
  return Progress::kEnded;
}

// Work may have to go on waiting: then another one is tried.
bool WorkQueue::RunOneReady(std::vector<WorkPtr> ready) {
  while (!ready.empty()) {
    const size_t i = rng_() % ready.size();
    if (Execute(ready[i]) == Progress::kEnded) return true;
    ready.erase(ready.begin() + static_cast<std::ptrdiff_t>(i));
  }
  return false;
}

bool WorkQueue::RunOneOf(std::vector<WorkPtr> needed) {
  std::vector<WorkPtr> ready;
  std::set<Work*> seen;
  for (const WorkPtr& work : needed) seen.insert(work.get());
  for (size_t i = 0; i < needed.size(); ++i) {
    if (IsReady(*needed[i])) ready.push_back(needed[i]);
    const std::vector<WorkPtr> after = needed[i]->after;
    for (const WorkPtr& before : after) {
      if (!before->done && seen.insert(before.get()).second) needed.push_back(before);
    }
  }
  return RunOneReady(std::move(ready));
}

bool WorkQueue::RunShared() {
  std::vector<WorkPtr> shared;
  for (const WorkPtr& work : pending_) {
    if (work->is_shared) shared.push_back(work);
  }
  return RunOneOf(std::move(shared));
}

bool WorkQueue::AnyKernelWaits() const {
  return std::any_of(pending_.begin(), pending_.end(), [](const WorkPtr& w) { return w->waits && !w->is_shared; });
}

// A device goes on by itself with what others wait for, however late its own host asks. A kernel that waits may wait
// for anything: then the rest of the device goes on.
bool WorkQueue::RunOneFor(const WorkPtr& work) {
  return RunOneOf({work}) || RunShared() || (AnyKernelWaits() && RunOneReady(Ready()));
}

void WorkQueue::Finish(const WorkPtr& work) {
  while (work != nullptr && !work->done) {
    if (!RunOneFor(work)) on_stuck_(Stuck::kWaits);
  }
}

bool WorkQueue::Query(const WorkPtr& work) {
  if (work == nullptr || work->done) return true;
  if (!RunOneFor(work)) on_stuck_(Stuck::kPolls);
  return work->done;
}

void WorkQueue::FinishAll(int device) {
  for (;;) {
    std::vector<WorkPtr> of_device;
    for (const WorkPtr& work : pending_) {
      if (work->device == device) of_device.push_back(work);
    }
    if (of_device.empty()) return;
    Finish(of_device[rng_() % of_device.size()]);
  }
}

void WorkQueue::RunSome() {
  if (order_ != Order::kRandom) return;
  while (rng_() % 2 == 0) {
    if (!RunOneReady(Ready())) return;
  }
}

void WorkQueue::MakeRoom(QueueStream& stream) {
  std::deque<WorkPtr>& pending = stream.pending;
  while (!pending.empty() && pending.front()->done) pending.pop_front();
  if (pending.size() < kMostPending) return;
  auto last_progress = std::chrono::steady_clock::now();
  for (const WorkPtr oldest = pending.front(); !oldest->done;) {
    const auto now = std::chrono::steady_clock::now();
    if (RunOneFor(oldest)) {
      last_progress = now;
    } else if (now - last_progress > most_blocked_) {
      throw std::runtime_error("the host is held in a launch: " + std::to_string(pending.size()) +
                               " are pending, and the oldest of them, " + oldest->name + ", does not end");
    } else {
      on_stuck_(Stuck::kWaits);
    }
  }
  pending.pop_front();
}

WorkPtr WorkQueue::Append(QueueStream& stream, Work added) {
  MakeRoom(stream);
  const auto work = std::make_shared<Work>(std::move(added));
  work->device = stream.device;
  if (stream.last != nullptr) work->after.push_back(stream.last);
  // The legacy stream of a device waits for every blocking stream of it, and they for it.
  QueueStream& legacy = this->legacy(stream.device);
  if (&stream == &legacy) {
    for (const QueueStream* other : streams_) {
      if (other->device == stream.device && other->waits_for_legacy && other->last != nullptr)
        work->after.push_back(other->last);
    }
  } else if (stream.waits_for_legacy && legacy.last != nullptr) {
    work->after.push_back(legacy.last);
  }
  stream.last = work;
  stream.pending.push_back(work);
  pending_.push_back(work);
  if (order_ == Order::kEager) {
    while (!work->done && RunOneFor(work)) {
    }
  }
  RunSome();
  return work;
}

void WorkQueue::EnqueueBody(QueueStream& stream, std::string name, WorkBody run) {
  if (stream.capture == nullptr) {
    Append(stream, {.name = std::move(name), .run = std::move(run)});
    return;
  }
  std::vector<GraphNode>& nodes = stream.capture->plan.nodes;
  nodes.push_back({std::move(name), std::move(run), stream.captured_last});
  stream.captured_last = {static_cast<int>(nodes.size()) - 1};
}

void WorkQueue::EnqueueShared(QueueStream& stream, std::string name, std::function<bool()> has_ended) {
  Append(stream,
         {.name = std::move(name),
          .run = [has_ended = std::move(has_ended)] { return has_ended() ? Progress::kEnded : Progress::kWaits; },
          .is_shared = true});
}

void WorkQueue::Record(QueueStream& stream, QueueEvent& event) {
  event.capture = stream.capture;
  event.captured = stream.captured_last;
  if (stream.capture != nullptr) return;
  Work work{.name = "event"};
  if (event.is_timed) {
    event.millis = std::make_shared<double>(0);
    work.run = [millis = event.millis] {
      const auto now = std::chrono::steady_clock::now().time_since_epoch();
      *millis = std::chrono::duration<double, std::milli>(now).count();
      return Progress::kEnded;
    };
  }
  event.work = Append(stream, std::move(work));
}

bool WorkQueue::Wait(QueueStream& stream, const QueueEvent& event) {
  if (event.capture == nullptr && event.work == nullptr) return true;
  if (stream.capture != nullptr && stream.capture != event.capture) {
    stream.capture->valid = false;
    if (event.capture != nullptr) event.capture->valid = false;
    return false;
  }
  if (event.capture == nullptr) {
    Append(stream, {.name = "wait", .after = {event.work}});
    return true;
  }
  if (stream.capture == nullptr) {  // the stream joins the capture
    stream.capture = event.capture;
    stream.captured_last.clear();
  }
  stream.captured_last.insert(stream.captured_last.end(), event.captured.begin(), event.captured.end());
  return true;
}

void WorkQueue::Launch(QueueStream& stream, const GraphPlan& plan) {
  Append(stream, {.name = "graph begins"});
  const WorkPtr begin = stream.last;
  std::vector<WorkPtr> works;
  for (const GraphNode& node : plan.nodes) {
    auto work = std::make_shared<Work>();
    work->name = node.name;
    work->run = node.run;
    work->device = stream.device;
    work->after = {begin};
    for (int before : node.after) work->after.push_back(works[before]);
    works.push_back(work);
    pending_.push_back(work);
  }
  Append(stream, {.name = "graph ends", .after = works});
}

void WorkQueue::EndCapture(const std::shared_ptr<Capture>& capture) {
  for (QueueStream* stream : streams_) {
    if (stream->capture != capture) continue;
    stream->capture = nullptr;
    stream->captured_last.clear();
  }
}

bool WorkQueue::CallSpoilsCapture() const {
  return std::any_of(streams_.begin(), streams_.end(), [](const QueueStream* s) {
    return s->capture != nullptr && (s->capture->spoiled_by_all || s->capture->thread == std::this_thread::get_id());
  });
}

}  // namespace tokenferry::fakegpu

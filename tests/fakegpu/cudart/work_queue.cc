#include "tests/fakegpu/cudart/work_queue.h"

#include <algorithm>

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

void WorkQueue::Execute(const WorkPtr& work) {
  work->done = true;
  work->after.clear();
  const std::function<void()> run = std::move(work->run);
  std::erase(pending_, work);
  if (run) run();
}

void WorkQueue::RunOneFor(const WorkPtr& work) {
  std::vector<WorkPtr> needed = {work}, ready;
  std::set<Work*> seen = {work.get()};
  for (size_t i = 0; i < needed.size(); ++i) {
    if (IsReady(*needed[i])) ready.push_back(needed[i]);
    const std::vector<WorkPtr> after = needed[i]->after;
    for (const WorkPtr& before : after) {
      if (!before->done && seen.insert(before.get()).second) needed.push_back(before);
    }
  }
  Execute(ready[rng_() % ready.size()]);
}

void WorkQueue::Finish(const WorkPtr& work) {
  while (work != nullptr && !work->done) RunOneFor(work);
}

bool WorkQueue::Query(const WorkPtr& work) {
  if (work == nullptr || work->done) return true;
  RunOneFor(work);
  return work->done;
}

void WorkQueue::FinishAll() {
  while (!pending_.empty()) Finish(pending_[rng_() % pending_.size()]);
}

void WorkQueue::RunSome() {
  if (order_ != Order::kRandom) return;
  while (rng_() % 2 == 0) {
    const std::vector<WorkPtr> ready = Ready();
    if (ready.empty()) return;
    Execute(ready[rng_() % ready.size()]);
  }
}

WorkPtr WorkQueue::Append(QueueStream& stream, std::string name, std::function<void()> run,
                          std::vector<WorkPtr> after) {
  auto work = std::make_shared<Work>();
  work->name = std::move(name);
  work->run = std::move(run);
  work->after = std::move(after);
  if (stream.last != nullptr) work->after.push_back(stream.last);
  // The legacy stream waits for every blocking stream, and they for it.
  if (&stream == &legacy_) {
    for (const QueueStream* other : streams_) {
      if (other->waits_for_legacy && other->last != nullptr) work->after.push_back(other->last);
    }
  } else if (stream.waits_for_legacy && legacy_.last != nullptr) {
    work->after.push_back(legacy_.last);
  }
  stream.last = work;
  pending_.push_back(work);
  if (order_ == Order::kEager) Finish(work);
  RunSome();
  return work;
}

void WorkQueue::Enqueue(QueueStream& stream, std::string name, std::function<void()> run) {
  if (stream.capture == nullptr) {
    Append(stream, std::move(name), std::move(run), {});
    return;
  }
  std::vector<GraphNode>& nodes = stream.capture->plan.nodes;
  nodes.push_back({std::move(name), std::move(run), stream.captured_last});
  stream.captured_last = {static_cast<int>(nodes.size()) - 1};
}

void WorkQueue::Record(QueueStream& stream, QueueEvent& event) {
  event.capture = stream.capture;
  event.captured = stream.captured_last;
  if (stream.capture == nullptr) event.work = Append(stream, "event", nullptr, {});
}

void WorkQueue::Wait(QueueStream& stream, const QueueEvent& event) {
  if (event.capture != nullptr) {  // the stream joins the capture
    if (stream.capture == nullptr) {
      stream.capture = event.capture;
      stream.captured_last.clear();
    }
    stream.captured_last.insert(stream.captured_last.end(), event.captured.begin(), event.captured.end());
  } else if (event.work != nullptr && stream.capture == nullptr) {
    Append(stream, "wait", nullptr, {event.work});
  }
}

void WorkQueue::Launch(QueueStream& stream, const GraphPlan& plan) {
  Append(stream, "graph begins", nullptr, {});
  const WorkPtr begin = stream.last;
  std::vector<WorkPtr> works;
  for (const GraphNode& node : plan.nodes) {
    auto work = std::make_shared<Work>();
    work->name = node.name;
    work->run = node.run;
    work->after = {begin};
    for (int before : node.after) work->after.push_back(works[before]);
    works.push_back(work);
    pending_.push_back(work);
  }
  Append(stream, "graph ends", nullptr, works);
}

void WorkQueue::EndCapture(const std::shared_ptr<Capture>& capture) {
  for (QueueStream* stream : streams_) {
    if (stream->capture != capture) continue;
    stream->capture = nullptr;
    stream->captured_last.clear();
  }
}

bool WorkQueue::AnyCaptures() const {
  return std::any_of(streams_.begin(), streams_.end(), [](const QueueStream* s) { return s->capture != nullptr; });
}

}  // namespace tokenferry::fakegpu

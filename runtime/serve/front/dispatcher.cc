#include "runtime/serve/front/dispatcher.h"

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/serve/api/api_status.h"

namespace tokenferry {
namespace {

// Jobs that may end while a request runs.
constexpr int kMostLosses = 2;

HttpError ErrorOf(const RequestFailed& failed) {
  switch (failed.kind) {
    case FailureKind::kInvalid:
      return {400, "invalid_value", failed.message, ""};
    case FailureKind::kOverloaded:
      return {503, "overloaded", failed.message, ""};
    case FailureKind::kInternal:
      break;
  }
  return {500, "internal_error", failed.message, ""};
}

// Takes up to `count` scores from the front of `scores`, and from `count` as many.
void PassOver(size_t& count, PromptScores& scores) {
  const auto num_known = static_cast<ptrdiff_t>(std::min(count, scores.logprobs.size()));
  scores.logprobs.erase(scores.logprobs.begin(), scores.logprobs.begin() + num_known);
  if (!scores.top.empty()) scores.top.erase(scores.top.begin(), scores.top.begin() + num_known);
  count -= static_cast<size_t>(num_known);
}

}  // namespace

Dispatcher::Dispatcher(std::function<void(const Message&)> send, int max_waiting)
    : send_(std::move(send)), max_waiting_(max_waiting) {}

void Dispatcher::SetCapacity(int64_t num_sequences) {
  capacity_ = num_sequences;
  SendWhatFits();
}

absl::StatusOr<uint64_t> Dispatcher::Submit(const std::string& key, std::vector<AddRequest> sequences,
                                            std::shared_ptr<RequestSink> sink) {
  if (stats_.num_waiting_requests >= max_waiting_) {
    return ToStatus(
        {429, "queue_full",
         absl::StrCat(stats_.num_waiting_requests, " requests are waiting already (--max-waiting): try again"), ""});
  }
  const uint64_t number = next_request_++;
  Request request;
  request.sink = std::move(sink);
  request.num_live = sequences.size();
  for (AddRequest& sequence : sequences) {
    sequence.id = next_id_++;
    request.sequences.push_back({std::move(sequence)});
  }
  requests_.emplace(number, std::move(request));
  stats_.num_waiting_requests += 1;
  std::deque<uint64_t>& queue = queues_[key];
  if (queue.empty()) turns_.push_back(key);
  queue.push_back(number);
  SendWhatFits();
  return number;
}

void Dispatcher::SendWhatFits() {
  while (stats_.num_running_sequences < capacity_ && !resuming_.empty()) {
    const Place place = resuming_.begin()->second;
    resuming_.erase(resuming_.begin());
    SendSequence(place, requests_.at(place.request).sequences[place.sequence_idx].add);
  }
  while (stats_.num_running_sequences < capacity_ && !turns_.empty()) {
    const std::string key = std::move(turns_.front());
    turns_.pop_front();
    std::deque<uint64_t>& queue = queues_[key];
    const auto found = requests_.find(queue.front());
    if (found != requests_.end()) SendNextOf(found->first, found->second);
    // A request that was cancelled, or whose sequences are all on their way, makes room for the key's next one.
    if (found == requests_.end() || found->second.num_sent == found->second.sequences.size()) queue.pop_front();
    if (queue.empty()) {
      queues_.erase(key);
    } else {
      turns_.push_back(key);
    }
  }
}

void Dispatcher::SendNextOf(uint64_t number, Request& request) {
  if (request.num_sent == 0) stats_.num_waiting_requests -= 1;
  while (request.num_sent < request.sequences.size()) {
    const size_t idx = request.num_sent++;
    if (request.sequences[idx].live) return SendSequence({number, idx}, request.sequences[idx].add);
  }
}

void Dispatcher::SendSequence(Place place, const AddRequest& sequence) {
  running_[sequence.id] = place;
  stats_.num_running_sequences += 1;
  send_(sequence);
}

void Dispatcher::EndSequence(uint64_t number, size_t sequence_idx) {
  const auto found = requests_.find(number);
  if (found == requests_.end() || !found->second.sequences[sequence_idx].live) return;
  Request& request = found->second;
  Sequence& sequence = request.sequences[sequence_idx];
  sequence.live = false;
  request.num_live -= 1;
  if (running_.erase(sequence.add.id) > 0) stats_.num_running_sequences -= 1;
  resuming_.erase(sequence.add.id);
  if (request.num_live > 0) return;
  if (request.num_sent == 0) stats_.num_waiting_requests -= 1;
  requests_.erase(found);
}

void Dispatcher::CancelSequence(uint64_t request, size_t sequence_idx) {
  const auto found = requests_.find(request);
  if (found == requests_.end() || !found->second.sequences[sequence_idx].live) return;
  const uint64_t id = found->second.sequences[sequence_idx].add.id;
  if (running_.count(id) > 0) send_(CancelRequest{id});
  EndSequence(request, sequence_idx);
  SendWhatFits();
}

void Dispatcher::Cancel(uint64_t request) {
  const auto found = requests_.find(request);
  if (found == requests_.end()) return;
  const size_t count = found->second.sequences.size();
  const auto sink = found->second.sink;                         // may be what calls
  for (size_t i = count; i-- > 0;) CancelSequence(request, i);  // from the last: none is sent in another one's place
}

void Dispatcher::EndRunning(uint64_t id) {
  const auto place = running_.find(id);
  if (place != running_.end()) EndSequence(place->second.request, place->second.sequence_idx);
}

void Dispatcher::Take(const TokenBatch& tokens) {
  std::set<std::shared_ptr<RequestSink>> heard;
  for (const TokenUpdate& update : tokens.updates) {
    const auto place = running_.find(update.id);
    if (place == running_.end()) continue;
    const Place at = place->second;
    Request& request = requests_.at(at.request);
    request.sequences[at.sequence_idx].add.output.push_back(update.sampled.token);
    const auto sink = request.sink;
    heard.insert(sink);
    sink->OnToken(at.sequence_idx, update);
    if (update.end != OutputEnd::kNone) EndRunning(update.id);
  }
  for (const auto& sink : heard) sink->OnStepEnd();
  SendWhatFits();
}

void Dispatcher::Take(const PromptScores& scores) {
  const auto place = running_.find(scores.id);
  if (place == running_.end()) return;
  const Place at = place->second;
  Request& request = requests_.at(at.request);
  Sequence& sequence = request.sequences[at.sequence_idx];
  const auto sink = request.sink;
  PromptScores news = scores;
  PassOver(sequence.num_to_pass_over, news);
  sequence.num_scored += news.logprobs.size();
  sink->OnPromptScores(at.sequence_idx, news);
  if (scores.end != OutputEnd::kNone) EndRunning(scores.id);
  sink->OnStepEnd();
  SendWhatFits();
}

void Dispatcher::Take(const RequestFailed& failed) {
  const auto place = running_.find(failed.id);
  if (place == running_.end()) return;
  const Place at = place->second;
  const auto sink = requests_.at(at.request).sink;
  EndRunning(failed.id);
  sink->OnFailed(at.sequence_idx, ErrorOf(failed));
  SendWhatFits();
}

void Dispatcher::OnRanksLost(const HttpError& error) {
  capacity_ = 0;
  const auto lost = std::exchange(running_, {});
  stats_.num_running_sequences = 0;
  std::set<uint64_t> requests;
  for (const auto& [id, place] : lost) {
    resuming_[id] = place;
    requests.insert(place.request);
    Sequence& sequence = requests_.at(place.request).sequences[place.sequence_idx];
    sequence.num_to_pass_over = sequence.num_scored;
    // The first token of a prompt has no score.
    const bool all_scored = sequence.num_scored + 1 == sequence.add.prompt.size();
    if (all_scored && sequence.add.max_new_tokens > 0) sequence.add.prompt_scores = WantPromptScores::kNo;
  }
  for (const uint64_t number : requests) {
    Request& request = requests_.at(number);
    if (++request.num_losses < kMostLosses) continue;
    const auto sink = request.sink;
    std::vector<size_t> live;
    for (size_t i = 0; i < request.sequences.size(); ++i) {
      if (request.sequences[i].live) live.push_back(i);
    }
    for (const size_t i : live) EndSequence(number, i);
    for (const size_t i : live) sink->OnFailed(i, error);
  }
}

void Dispatcher::FailAll(const HttpError& error) {
  capacity_ = 0;
  const auto requests = std::exchange(requests_, {});
  running_.clear();
  resuming_.clear();
  queues_.clear();
  turns_.clear();
  stats_ = {};
  for (const auto& [number, request] : requests) {
    for (size_t i = 0; i < request.sequences.size(); ++i) {
      if (request.sequences[i].live) request.sink->OnFailed(i, error);
    }
  }
}

}  // namespace tokenferry

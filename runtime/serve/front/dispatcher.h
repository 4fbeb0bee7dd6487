// Which sequence goes to the ranks next. Requests wait here and not in the engine, so that one client's flood does not
// stand before everybody else: the keys take turns.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/status.h"
#include "runtime/serve/http/http_error.h"
#include "runtime/serve/protocol/messages.h"

namespace tokenferry {

// Who hears of a request's sequences, by their place in the request. After kStop, kLength or OnFailed nothing more
// comes for a sequence. May call Dispatcher::Cancel.
class RequestSink {
 public:
  virtual ~RequestSink() = default;
  virtual void OnToken(size_t sequence_idx, const TokenUpdate& update) = 0;
  virtual void OnPromptScores(size_t sequence_idx, const PromptScores& scores) = 0;
  virtual void OnFailed(size_t sequence_idx, const HttpError& error) = 0;
  // All tokens of a step have come: what they make can be written at once.
  virtual void OnStepEnd() = 0;
};

struct DispatcherStats {
  int64_t num_waiting_requests = 0;   // of which no sequence has been sent to the ranks
  int64_t num_running_sequences = 0;  // sent and not ended
};

// Used on the front's thread.
class Dispatcher {
 public:
  // `send` takes what is for rank 0. Nothing is sent before SetCapacity.
  Dispatcher(std::function<void(const Message&)> send, int max_waiting);

  // So many sequences may be with the ranks at a time.
  void SetCapacity(int64_t num_sequences);

  // Queues the request's sequences under the client's `key`; ids are given here. `sink` hears of them until all have
  // ended or Cancel. 429 "queue_full" when max_waiting requests wait already. Returns the request's number.
  absl::StatusOr<uint64_t> Submit(const std::string& key, std::vector<AddRequest> sequences,
                                  std::shared_ptr<RequestSink> sink);
  // Ends one sequence, or all of the request. The sink hears no more of them.
  void CancelSequence(uint64_t request, size_t sequence_idx);
  void Cancel(uint64_t request);

  // What rank 0 says of sequences. Those that have been cancelled are passed over.
  void Take(const TokenBatch& tokens);
  void Take(const PromptScores& scores);
  void Take(const RequestFailed& failed);
  // The ranks are gone, and others will come. What ran waits, the oldest first and before all else, to go on from its
  // last token. A request of which something has now run on two jobs that ended fails with `error`: it may be the
  // cause. Nothing is sent before the next SetCapacity.
  void OnRanksLost(const HttpError& error);
  // The ranks are gone for good: every sequence that is left fails.
  void FailAll(const HttpError& error);

  bool idle() const { return requests_.empty(); }
  const DispatcherStats& stats() const { return stats_; }

 private:
  struct Sequence {
    AddRequest add;  // with the output so far
    bool live = true;
    size_t num_scored = 0;        // scores of its prompt that the sink has
    size_t num_to_pass_over = 0;  // of those that come next, since it has them from other ranks
  };
  struct Request {
    std::vector<Sequence> sequences;
    size_t num_sent = 0, num_live = 0;
    int num_losses = 0;  // jobs that ended while it ran
    std::shared_ptr<RequestSink> sink;
  };
  struct Place {
    uint64_t request;
    size_t sequence_idx;
  };

  void SendWhatFits();
  void SendNextOf(uint64_t number, Request& request);
  void SendSequence(Place place, const AddRequest& sequence);
  // Takes a sequence out; it was the last when the request is gone afterwards.
  void EndSequence(uint64_t number, size_t sequence_idx);
  void EndRunning(uint64_t id);

  const std::function<void(const Message&)> send_;
  const int max_waiting_;
  int64_t capacity_ = 0;
  uint64_t next_request_ = 1, next_id_ = 1;
  std::map<uint64_t, Request> requests_;
  std::unordered_map<uint64_t, Place> running_;  // by sequence id
  std::map<uint64_t, Place> resuming_;           // by sequence id, the oldest first: they ran on ranks that are gone
  // Requests with sequences to be sent, by key, and the keys in their turn.
  std::map<std::string, std::deque<uint64_t>> queues_;
  std::deque<std::string> turns_;
  DispatcherStats stats_;
};

}  // namespace tokenferry

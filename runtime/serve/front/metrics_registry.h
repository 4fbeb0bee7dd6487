// The metrics of /metrics: names and buckets that dashboards for vLLM know, with the prefix tokenferry_.
#pragma once

#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "runtime/serve/front/dispatcher.h"
#include "runtime/serve/front/front_options.h"
#include "runtime/serve/http/http_server.h"
#include "runtime/serve/protocol/messages.h"

namespace tokenferry {

// Used on the front's thread. Counters never fall, also when the ranks start again and theirs begin at 0.
class MetricsRegistry {
 public:
  MetricsRegistry();
  ~MetricsRegistry();

  // The label model_name; before anything is counted.
  void SetModel(const std::string& name);

  void OnStart(int64_t prompt_tokens);  // a request that is valid
  void OnFirstToken(double seconds_since_start);
  void OnNextToken(double seconds_since_last);  // of the same sequence
  void OnToken();
  // `outcome`: "success", "error", "abort" (the client has gone).
  void OnEnd(absl::string_view outcome, double seconds, int64_t completion_tokens);
  void OnIgnoredFields(int64_t count);

  // The ranks have ended and others are started, which count from 0.
  void OnRestart();
  // What the ranks have counted since they started.
  void Update(const JobStats& stats);
  // What is so now, and the whole text in Prometheus' format.
  std::string Text(const DispatcherStats& dispatcher, const HttpServerStats& http, size_t num_ranks_up,
                   MetricsCompat compat);

 private:
  struct Metrics;
  std::unique_ptr<Metrics> metrics_;
};

}  // namespace tokenferry

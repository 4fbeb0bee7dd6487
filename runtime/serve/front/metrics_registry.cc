#include "runtime/serve/front/metrics_registry.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/metric_family.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <sstream>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace tokenferry {
namespace {

using Labels = std::map<std::string, std::string>;
using Buckets = prometheus::Histogram::BucketBoundaries;

// vLLM's.
const Buckets kFirstTokenSeconds = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                                    1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
const Buckets kNextTokenSeconds = {.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80};
const Buckets kRequestSeconds = {.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
const Buckets kTokens = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000};

// What vLLM counts in the same way, "vllm:" before its name.
constexpr absl::string_view kVllmNames[] = {
    "num_requests_running",        "num_requests_waiting",        "kv_cache_usage_perc",
    "num_preemptions_total",       "prefix_cache_queries_total",  "prefix_cache_hits_total",
    "prompt_tokens_total",         "generation_tokens_total",     "time_to_first_token_seconds",
    "inter_token_latency_seconds", "e2e_request_latency_seconds", "request_prompt_tokens",
    "request_generation_tokens"};

void AddVllmNames(std::vector<prometheus::MetricFamily>* families) {
  std::vector<prometheus::MetricFamily> added;
  for (const prometheus::MetricFamily& family : *families) {
    absl::string_view name = family.name;
    if (!absl::ConsumePrefix(&name, "tokenferry_")) continue;
    if (std::find(std::begin(kVllmNames), std::end(kVllmNames), name) == std::end(kVllmNames)) continue;
    added.push_back(family);
    added.back().name = absl::StrCat("vllm:", name);
  }
  families->insert(families->end(), added.begin(), added.end());
}

constexpr const char* kLinkClasses[] = {"rank", "host", "network"};

}  // namespace

struct MetricsRegistry::Metrics {
  prometheus::Registry registry;
  Labels labels;
  JobStats last;  // of the ranks that run, to add what is new
  HttpServerStats last_http;
  // Counted with every token, and therefore not looked up each time.
  prometheus::Counter* generated_tokens = nullptr;
  prometheus::Histogram* next_token_seconds = nullptr;

  prometheus::Histogram& Histogram(const char* name, const char* help, const Buckets& buckets) {
    return prometheus::BuildHistogram().Name(name).Help(help).Labels(labels).Register(registry).Add({}, buckets);
  }
  prometheus::Counter& Counter(const char* name, const char* help, const Labels& more = {}) {
    return prometheus::BuildCounter().Name(name).Help(help).Labels(labels).Register(registry).Add(more);
  }
  prometheus::Gauge& Gauge(const char* name, const char* help, const Labels& more = {}) {
    return prometheus::BuildGauge().Name(name).Help(help).Labels(labels).Register(registry).Add(more);
  }
  // A counter that somebody else keeps.
  template <class T>
  void Raise(const char* name, const char* help, T now, T before, const Labels& more = {}) {
    Counter(name, help, more).Increment(static_cast<double>(now - before));
  }
  template <class T>
  void RaiseEach(const char* name, const char* help, const std::vector<T>& now, const std::vector<T>& before,
                 const std::function<Labels(size_t)>& labels_of) {
    for (size_t i = 0; i < now.size(); ++i)
      Raise(name, help, now[i], i < before.size() ? before[i] : T{}, labels_of(i));
  }
};

MetricsRegistry::MetricsRegistry() : metrics_(std::make_unique<Metrics>()) {}
MetricsRegistry::~MetricsRegistry() = default;

void MetricsRegistry::SetModel(const std::string& name) {
  Metrics& m = *metrics_;
  m.labels = {{"model_name", name}};
  m.generated_tokens = &m.Counter("tokenferry_generation_tokens_total", "Tokens generated.");
  m.next_token_seconds =
      &m.Histogram("tokenferry_inter_token_latency_seconds", "Between two tokens of a sequence.", kNextTokenSeconds);
}

void MetricsRegistry::OnStart(int64_t prompt_tokens) {
  metrics_->Counter("tokenferry_prompt_tokens_total", "Tokens of prompts of valid requests.")
      .Increment(static_cast<double>(prompt_tokens));
  metrics_->Histogram("tokenferry_request_prompt_tokens", "Tokens of a request's prompts.", kTokens)
      .Observe(static_cast<double>(prompt_tokens));
}

void MetricsRegistry::OnFirstToken(double seconds_since_start) {
  metrics_
      ->Histogram("tokenferry_time_to_first_token_seconds", "From a request's parsing to its first token.",
                  kFirstTokenSeconds)
      .Observe(seconds_since_start);
}

void MetricsRegistry::OnNextToken(double seconds_since_last) {
  metrics_->next_token_seconds->Observe(seconds_since_last);
}

void MetricsRegistry::OnToken() { metrics_->generated_tokens->Increment(); }

void MetricsRegistry::OnEnd(absl::string_view outcome, double seconds, int64_t completion_tokens) {
  metrics_
      ->Counter("tokenferry_requests_total", "Requests for text that have ended, by outcome.",
                {{"outcome", std::string(outcome)}})
      .Increment();
  metrics_->Histogram("tokenferry_e2e_request_latency_seconds", "From a request's parsing to its end.", kRequestSeconds)
      .Observe(seconds);
  metrics_->Histogram("tokenferry_request_generation_tokens", "Tokens generated for a request.", kTokens)
      .Observe(static_cast<double>(completion_tokens));
}

void MetricsRegistry::OnIgnoredFields(int64_t count) {
  metrics_->Counter("tokenferry_ignored_fields_total", "Fields of requests that no route knows.")
      .Increment(static_cast<double>(count));
}

void MetricsRegistry::OnRestart() {
  metrics_->Counter("tokenferry_restarts_total", "Jobs of ranks that have ended and were started again.").Increment();
  metrics_->last = {};
}

void MetricsRegistry::Update(const JobStats& now) {
  Metrics& m = *metrics_;
  const JobStats& last = m.last;
  m.Raise("tokenferry_steps_total", "Steps of the ranks.", now.num_steps, last.num_steps);
  m.Raise("tokenferry_step_seconds_total", "Time spent in steps.", now.step_seconds, last.step_seconds);
  m.Raise("tokenferry_num_preemptions_total", "Sequences that lost their cache to older ones.", now.num_preemptions,
          last.num_preemptions);
  m.Raise("tokenferry_replays_total", "Sequences computed again from their tokens.", now.num_replays, last.num_replays);
  m.Raise("tokenferry_prefix_cache_queries_total", "Tokens of prompts looked for in the prefix cache.",
          now.prefix_query_tokens, last.prefix_query_tokens);
  m.Raise("tokenferry_prefix_cache_hits_total", "Tokens of prompts found in the prefix cache.", now.prefix_hit_tokens,
          last.prefix_hit_tokens);
  m.Gauge("tokenferry_kv_cache_usage_perc", "Share of the cache blocks of all ranks in use, 0 to 1.")
      .Set(static_cast<double>(now.cache_blocks_used) /
           static_cast<double>(std::max<int64_t>(now.cache_blocks_total, 1)));
  const size_t num_ranks = now.exchange_seconds.size();
  const auto rank = [](size_t i) { return Labels{{"ep_rank", absl::StrCat(i)}}; };
  m.RaiseEach("tokenferry_a2a_seconds_total", "Time in exchanges, by rank.", now.exchange_seconds,
              last.exchange_seconds, rank);
  if (num_ranks > 0 && now.wait_seconds.size() == num_ranks * num_ranks) {
    m.RaiseEach("tokenferry_a2a_wait_seconds_total", "Time that a rank has waited for another one.", now.wait_seconds,
                last.wait_seconds, [num_ranks](size_t i) {
                  return Labels{{"ep_rank", absl::StrCat(i / num_ranks)}, {"for_rank", absl::StrCat(i % num_ranks)}};
                });
  }
  m.RaiseEach("tokenferry_a2a_bytes_total", "Bytes sent, by rank and kind of link.", now.bytes_sent, last.bytes_sent,
              [](size_t i) {
                return Labels{{"ep_rank", absl::StrCat(i / 3)}, {"link_class", kLinkClasses[i % 3]}};
              });
  if (num_ranks > 0) {
    m.RaiseEach("tokenferry_moe_rank_tokens_total", "Selections of experts computed, by layer and rank.", now.rank_rows,
                last.rank_rows, [num_ranks](size_t i) {
                  return Labels{{"layer", absl::StrCat(i / num_ranks)}, {"ep_rank", absl::StrCat(i % num_ranks)}};
                });
  }
  const auto layer = [](size_t i) { return Labels{{"layer", absl::StrCat(i)}}; };
  m.RaiseEach("tokenferry_moe_dropped_tokens_total", "Selections dropped by the overflow policy.", now.dropped,
              last.dropped, layer);
  m.RaiseEach("tokenferry_moe_rerouted_tokens_total", "Selections rerouted by the overflow policy.", now.rerouted,
              last.rerouted, layer);
  for (size_t l = 0; num_ranks > 0 && l < now.rank_rows.size() / num_ranks; ++l) {
    const auto begin = now.rank_rows.begin() + static_cast<ptrdiff_t>(l * num_ranks);
    const auto end = begin + static_cast<ptrdiff_t>(num_ranks);
    double sum = 0;
    for (auto it = begin; it != end; ++it) sum += static_cast<double>(*it);
    const auto most = static_cast<double>(*std::max_element(begin, end));
    m.Gauge("tokenferry_moe_balancedness", "Mean over maximum of the ranks' selections since the start.", layer(l))
        .Set(most > 0 ? sum / static_cast<double>(num_ranks) / most : 1);
  }
  m.last = now;
}

std::string MetricsRegistry::Text(const DispatcherStats& dispatcher, const HttpServerStats& http, size_t num_ranks_up,
                                  MetricsCompat compat) {
  Metrics& m = *metrics_;
  m.Gauge("tokenferry_num_requests_running", "Sequences with the ranks.")
      .Set(static_cast<double>(dispatcher.num_running_sequences));
  m.Gauge("tokenferry_num_requests_waiting", "Requests that no rank has begun.")
      .Set(static_cast<double>(dispatcher.num_waiting_requests));
  m.Gauge("tokenferry_http_connections", "Open connections.").Set(static_cast<double>(http.num_connections));
  m.Raise("tokenferry_http_accepted_connections_total", "Connections taken.", http.num_accepted,
          m.last_http.num_accepted);
  m.Raise("tokenferry_http_refused_connections_total", "Connections beyond --max-connections.", http.num_refused,
          m.last_http.num_refused);
  m.Raise("tokenferry_http_cut_connections_total", "Connections that ended before their answer: gone, or cut.",
          http.num_cut, m.last_http.num_cut);
  m.last_http = http;
  m.Gauge("tokenferry_ranks_up", "Ranks that answer.").Set(static_cast<double>(num_ranks_up));
  std::ostringstream out;
  std::vector<prometheus::MetricFamily> families = m.registry.Collect();
  if (compat == MetricsCompat::kVllm) AddVllmNames(&families);
  prometheus::TextSerializer().Serialize(out, families);
  return out.str();
}

}  // namespace tokenferry

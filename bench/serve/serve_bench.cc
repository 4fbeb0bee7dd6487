#include "bench/serve/serve_bench.h"

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/host/clock.h"
#include "core/io/json.h"

namespace tokenferry {
namespace {

namespace asio = boost::asio;
using Json = nlohmann::ordered_json;

constexpr size_t kMaxErrorBytes = 64 << 10;

HttpCall MakeCall(const ServeLoadOptions& options, const BenchPrompt& prompt) {
  Json body = {{"model", options.model}};
  const bool chat = options.api == ServeApi::kChat;
  if (chat) {
    body["messages"] = Json::array({{{"role", "user"}, {"content", prompt.text}}});
    body["max_completion_tokens"] = prompt.max_tokens;
  } else {
    body["prompt"] = prompt.text;
    body["max_tokens"] = prompt.max_tokens;
  }
  body["temperature"] = options.temperature;
  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  if (options.end_of_text == ServeLoadOptions::EndOfText::kIgnored) body["ignore_eos"] = true;
  return {"POST", chat ? "/v1/chat/completions" : "/v1/completions",
          body.dump(-1, ' ', false, Json::error_handler_t::replace)};
}

// Sends the requests of a load. Lives on one thread, that of the io_context.
class LoadRun {
 public:
  LoadRun(asio::io_context& io, const ServeLoadOptions& options, const std::vector<BenchPrompt>& prompts)
      : options_(options), prompts_(prompts), arrival_timer_(io), slot_timer_(io) {
    result_.outcomes.resize(prompts.size());
  }

  asio::awaitable<void> SendAll() {
    const std::vector<double> arrivals =
        ArrivalTimes(static_cast<int>(prompts_.size()), options_.request_rate, options_.arrivals, options_.seed);
    start_ns_ = SteadyNanos();
    start_ = asio::steady_timer::clock_type::now();
    for (size_t i = 0; i < prompts_.size(); ++i) {
      co_await Until(arrivals[i]);
      while (options_.max_concurrency > 0 && num_running_ == options_.max_concurrency) co_await ASlot();
      num_running_ += 1;
      result_.most_concurrent = std::max(result_.most_concurrent, num_running_);
      asio::co_spawn(arrival_timer_.get_executor(), SendOne(i), asio::detached);
    }
  }

  ServeLoadResult TakeResult() { return std::move(result_); }

 private:
  asio::awaitable<void> Until(double seconds) {
    boost::system::error_code ignored;
    arrival_timer_.expires_at(start_ + absl::ToChronoNanoseconds(absl::Seconds(seconds)));
    co_await arrival_timer_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }

  // Until a request has ended: SendOne cancels the timer.
  asio::awaitable<void> ASlot() {
    boost::system::error_code ignored;
    slot_timer_.expires_at(asio::steady_timer::time_point::max());
    co_await slot_timer_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }

  asio::awaitable<void> SendOne(size_t i) {
    const int64_t sent_ns = SteadyNanos();
    AnswerReader reader(options_.api, sent_ns);
    std::string error_body;
    const BodySink sink = [&](const HttpHead& head, absl::string_view piece) {
      if (IsStream(head)) return reader.OnPiece(piece, SteadyNanos());
      absl::StrAppend(&error_body, piece.substr(0, kMaxErrorBytes - std::min(kMaxErrorBytes, error_body.size())));
      return absl::OkStatus();
    };
    const absl::StatusOr<HttpHead> head =
        co_await Fetch(options_.target, MakeCall(options_, prompts_[i]), options_.timeout, sink);
    RequestOutcome outcome = reader.outcome();
    outcome.start_seconds = static_cast<double>(sent_ns - start_ns_) * 1e-9;
    if (outcome.input_tokens == 0) outcome.input_tokens = prompts_[i].num_units;
    outcome.status = !head.ok() ? head.status()
                     : IsStream(*head)
                         ? reader.Finish()
                         : absl::InternalError(absl::StrCat("HTTP ", head->status, " ", head->content_type, ": ",
                                                            ErrorMessage(error_body)));
    result_.outcomes[i] = std::move(outcome);
    result_.duration_seconds = static_cast<double>(SteadyNanos() - start_ns_) * 1e-9;
    num_running_ -= 1;
    slot_timer_.cancel();
  }

  static bool IsStream(const HttpHead& head) {
    return head.status == 200 && absl::StartsWith(head.content_type, "text/event-stream");
  }

  const ServeLoadOptions& options_;
  const std::vector<BenchPrompt>& prompts_;
  asio::steady_timer arrival_timer_, slot_timer_;
  asio::steady_timer::time_point start_;
  int64_t start_ns_ = 0;
  int num_running_ = 0;
  ServeLoadResult result_;
};

asio::awaitable<void> FetchInto(ServeTarget target, HttpCall call, absl::Duration timeout, BodySink sink,
                                absl::StatusOr<HttpHead>& head) {
  head = co_await Fetch(std::move(target), std::move(call), timeout, std::move(sink));
}

}  // namespace

std::vector<double> ArrivalTimes(int count, double rate, Arrivals arrivals, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<double> times;
  double at = 0;
  for (int i = 0; i < count; ++i) {
    times.push_back(at);
    if (rate <= 0) continue;
    // Inversion: the next one has the same bits on every machine.
    const double uniform = static_cast<double>(random() >> 11) * 0x1p-53;  // [0, 1)
    at += arrivals == Arrivals::kFixed ? 1 / rate : -std::log1p(-uniform) / rate;
  }
  return times;
}

absl::StatusOr<std::string> FirstModel(const ServeTarget& target, absl::Duration timeout) {
  asio::io_context io;
  std::string body;
  absl::StatusOr<HttpHead> head = absl::InternalError("not asked");
  const BodySink sink = [&](const HttpHead&, absl::string_view piece) {
    absl::StrAppend(&body, piece);
    return body.size() <= (4 << 20) ? absl::OkStatus()
                                    : absl::ResourceExhaustedError("the list of models has more than 4 MiB");
  };
  asio::co_spawn(io, FetchInto(target, {"GET", "/v1/models", ""}, timeout, sink, head), asio::detached);
  io.run();
  TF_RETURN_IF_ERROR(head.status());
  const std::string where = absl::StrCat("http://", target.host, ":", target.port, target.prefix, "/v1/models");
  if (head->status != 200) {
    return absl::FailedPreconditionError(absl::StrCat(where, " answers ", head->status, ": ", ErrorMessage(body)));
  }
  TF_ASSIGN_OR_RETURN(const JsonDocument json, JsonDocument::Parse(std::move(body), where));
  TF_ASSIGN_OR_RETURN(const JsonNode data, json.root().Child("data"));
  TF_ASSIGN_OR_RETURN(const std::vector<JsonNode> models, data.Elements());
  if (models.empty()) return data.Error("lists no model");
  TF_ASSIGN_OR_RETURN(const JsonNode id, models[0].Child("id"));
  return id.String();
}

ServeLoadResult RunLoad(const ServeLoadOptions& options, const std::vector<BenchPrompt>& prompts) {
  asio::io_context io(1);
  LoadRun run(io, options, prompts);
  asio::co_spawn(io, run.SendAll(), asio::detached);
  io.run();
  return run.TakeResult();
}

}  // namespace tokenferry

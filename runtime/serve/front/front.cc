#include "runtime/serve/front/front.h"

#include <boost/asio/post.hpp>
#include <csignal>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/log.h"
#include "runtime/serve/api/api_status.h"
#include "runtime/serve/front/wall_clock.h"

namespace tokenferry {
namespace {

namespace asio = boost::asio;
using ErrorCode = boost::system::error_code;

constexpr int kNumWorkers = 2;
// Bodies that are being read: far more than the workers have at a time.
constexpr int64_t kMaxParsing = 256;
constexpr auto kTick = std::chrono::seconds(1);
// How long the last answers may take to be read by their clients before the process ends.
constexpr absl::Duration kLastAnswers = absl::Seconds(1);
// How long ranks that this process has started may take to be gone: they are killed long before.
constexpr absl::Duration kLastRanks = absl::Seconds(20);
constexpr auto kLeavePoll = std::chrono::milliseconds(10);

}  // namespace

template <class Ranks>
Front::Front(std::in_place_t, const FrontOptions& options, Ranks ranks)
    : options_(options),
      workers_(kNumWorkers),
      signals_(io_),
      tick_(io_),
      leave_timer_(io_),
      drain_timer_(io_),
      ranks_(io_, std::move(ranks),
             {[this](Message message) { OnMessage(std::move(message)); },
              [this](const std::string& reason) { OnRanksLost(reason); },
              [this](const std::string& reason) { OnRanksEnded(reason); }}),
      dispatcher_([this](const Message& message) { ranks_.Send(message); }, options.api.max_waiting),
      created_(SecondsSince1970()) {
  std::random_device entropy;
  id_seed_ = (uint64_t{entropy()} << 32) | entropy();
}

Front::Front(const FrontOptions& options, OwnedFd socket) : Front(std::in_place, options, std::move(socket)) {}
Front::Front(const FrontOptions& options, RankJobOptions job) : Front(std::in_place, options, std::move(job)) {}

Front::~Front() {
  workers_.stop();
  workers_.join();
}

absl::Status Front::Start() {
  std::vector<std::string> keys;
  if (!options_.api_key_file.empty()) {
    TF_ASSIGN_OR_RETURN(keys, ReadApiKeys(options_.api_key_file));
  }
  std::vector<std::string> hosts = options_.allowed_hosts;
  if (options_.insecure) hosts.push_back(options_.host);
  access_ = std::make_unique<Access>(std::move(keys), std::move(hosts));
  server_ = std::make_unique<HttpServer>(io_, options_.http,
                                         [this](HttpRequest request, std::shared_ptr<HttpExchange> exchange) {
                                           Dispatch(std::move(request), std::move(exchange));
                                         });
  TF_RETURN_IF_ERROR(server_->Listen(options_.host, options_.port));
  TF_ASSIGN_OR_RETURN(model_, LoadServedModel(options_.model));
  metrics_.SetModel(model_->name);
  signals_.add(SIGTERM);
  signals_.add(SIGINT);
  OnSignal();
  OnTick();
  LogInfo(
      absl::StrCat("serve: listening on http://", options_.host, ":", server_->port(), " for model ", model_->name));
  return ranks_.Start();
}

int Front::Run() {
  // mpirun reads what this process prints, and may be gone while clients still wait for their answers.
  std::signal(SIGPIPE, SIG_IGN);
  if (const absl::Status status = Start(); !status.ok()) {
    if (ranks_.own()) {
      LogError(absl::StrCat("serve: ", status.message()));
      return 1;
    }
    server_.reset();  // there may be no model to answer with
    ranks_.SayGoodbye(std::string(status.message()));
    io_.run_for(kTick);
    return 1;
  }
  io_.run();
  return exit_status_;
}

void Front::OnMessage(Message message) {
  since_sign_ = Stopwatch();
  if (const auto* progress = std::get_if<LoadingProgress>(&message)) progress_ = *progress;
  if (auto* ready = std::get_if<tokenferry::Ready>(&message)) OnReady(std::move(*ready));
  if (const auto* tokens = std::get_if<TokenBatch>(&message)) dispatcher_.Take(*tokens);
  if (const auto* scores = std::get_if<PromptScores>(&message)) dispatcher_.Take(*scores);
  if (const auto* failed = std::get_if<RequestFailed>(&message)) dispatcher_.Take(*failed);
  if (auto* stats = std::get_if<JobStats>(&message)) {
    job_stats_ = std::move(*stats);
    metrics_.Update(job_stats_);
  }
  if (std::holds_alternative<tokenferry::Drain>(message)) Drain();
}

void Front::OnReady(tokenferry::Ready ready) {
  ready_ = std::move(ready);
  if (phase_ == Phase::kLoading || phase_ == Phase::kRestarting) phase_ = Phase::kServing;
  LogInfo(absl::StrCat("serve: ready: ", ready_.setup));
  // A few more than run, so that a slot that becomes free is taken in the next step.
  const auto slots = static_cast<int64_t>(ready_.host_per_rank.size()) * ready_.max_sequences_per_rank;
  dispatcher_.SetCapacity(slots + std::max<int64_t>(1, slots / 8));
}

void Front::OnRanksLost(const std::string& reason) {
  if (phase_ != Phase::kServing) return;
  phase_ = Phase::kRestarting;
  progress_ = {};
  job_stats_ = {};
  metrics_.OnRestart();
  dispatcher_.OnRanksLost(
      {500, "rank_failed", absl::StrCat("the ranks have ended twice while this request ran: ", reason), ""});
}

void Front::OnRanksEnded(const std::string& reason) {
  if (phase_ == Phase::kEnding) return;
  LogError(
      absl::StrCat("serve: the ranks have ended (", reason, "); answering ", jobs_.size(), " requests with an error"));
  exit_status_ = 1;
  FailEverybody({503, "rank_failed", absl::StrCat("the ranks have ended: ", reason), ""});
}

void Front::OnSignal() {
  signals_.async_wait([this](ErrorCode error, int) {
    if (error) return;
    if (draining_) {
      ranks_.SayGoodbye("the front was asked twice to stop");
      return FailEverybody({503, "stopped", "the server was stopped", ""});
    }
    Drain();
    OnSignal();
  });
}

void Front::Drain() {
  if (std::exchange(draining_, true) || phase_ == Phase::kEnding) return;
  LogInfo(absl::StrCat("serve: draining: ", jobs_.size(), " requests go on, for at most ",
                       absl::FormatDuration(options_.drain_timeout), "; new ones are refused"));
  drain_timer_.expires_after(absl::ToChronoMilliseconds(options_.drain_timeout));
  drain_timer_.async_wait([this](ErrorCode error) {
    if (error || phase_ == Phase::kEnding) return;
    ranks_.SayGoodbye(absl::StrCat("requests were still running ", absl::FormatDuration(options_.drain_timeout),
                                   " after the server was asked to stop (--drain-timeout)"));
    FailEverybody({503, "stopped", "the server was stopped", ""});
  });
  LeaveWhenDrained();
}

void Front::LeaveWhenDrained() {
  if (!draining_ || phase_ == Phase::kEnding || !jobs_.empty() || num_parsing_ > 0) return;
  ranks_.SayGoodbye("");
  Leave(0);
}

void Front::FailEverybody(const HttpError& error) {
  if (phase_ == Phase::kEnding) return;
  phase_ = Phase::kEnding;
  dispatcher_.FailAll(error);
  Leave(1);
}

void Front::Leave(int exit_status) {
  phase_ = Phase::kEnding;
  exit_status_ = exit_status;
  since_end_ = Stopwatch();
  drain_timer_.cancel();
  server_->Drain();
  LeaveSoon();
}

// Every answer is written by now, but not read; who waits for a body to come gets nothing. Rank 0 has to hear Goodbye:
// without it the job has failed.
void Front::LeaveSoon() {
  const bool answered = server_->idle() || since_end_.elapsed() >= kLastAnswers;
  const bool over = ranks_.idle() || since_end_.elapsed() >= (ranks_.own() ? kLastRanks : kLastAnswers);
  if (answered && over) return io_.stop();
  leave_timer_.expires_after(kLeavePoll);
  leave_timer_.async_wait([this](ErrorCode error) {
    if (!error) LeaveSoon();
  });
}

void Front::OnTick() {
  const std::vector<std::shared_ptr<GenerationJob>> jobs(jobs_.begin(), jobs_.end());
  for (const auto& job : jobs) job->Tick();
  tick_.expires_after(kTick);
  tick_.async_wait([this](ErrorCode error) {
    if (!error) OnTick();
  });
}

bool Front::Responsive() const { return since_sign_.elapsed() < options_.health_timeout; }

std::optional<HttpError> Front::Unready() const {
  if (phase_ == Phase::kEnding || draining_) return HttpError{503, "draining", "the server is shutting down", ""};
  if (phase_ == Phase::kLoading) return HttpError{503, "loading", "the model is being loaded: see /health", ""};
  return std::nullopt;
}

std::optional<HttpError> Front::Busy() const {
  if (num_parsing_ < kMaxParsing) return std::nullopt;
  return HttpError{429, "queue_full", absl::StrCat(num_parsing_, " requests are being read: try again"), ""};
}

void Front::Generate(Call call, const char* id_prefix,
                     absl::StatusOr<GenerationRequest> (*parse)(std::string, const ServedModel&, const ApiLimits&,
                                                                FieldTable*)) {
  if (const auto error = Unready()) return Refuse(call, *error);
  if (const auto error = Busy()) return Refuse(call, *error);
  num_parsing_ += 1;
  const std::string id = absl::StrCat(id_prefix, NextId());
  asio::post(workers_, [this, call = std::move(call), parse, id]() mutable {
    auto parsed = parse(std::move(call.request.body), *model_, options_.api, nullptr);
    asio::post(io_, [this, call = std::move(call), id, parsed = std::move(parsed)]() mutable {
      num_parsing_ -= 1;
      if (!parsed.ok()) {
        Refuse(call, ToHttpError(parsed.status()));
      } else if (const auto error = phase_ == Phase::kEnding ? Unready() : std::nullopt) {
        Refuse(call, *error);
      } else {
        StartJob(std::move(call), *std::move(parsed), id);
      }
      LeaveWhenDrained();
    });
  });
}

std::string Front::NextId() { return absl::StrCat(absl::Hex(id_seed_, absl::kZeroPad16), absl::Hex(next_id_++)); }

void Front::StartJob(Call call, GenerationRequest request, const std::string& id) {
  metrics_.OnIgnoredFields(request.num_ignored_fields);
  AnswerFacts facts{.id = id,
                    .created = SecondsSince1970(),
                    .model = model_->name,
                    .seed = static_cast<int64_t>(request.sampling.seed),
                    .num_logprobs = request.num_logprobs,
                    .routing = request.routing,
                    .num_moe_layers = model_->spec.num_moe_layers(),
                    .top_k = model_->spec.moe.router.top_k};
  // The job's end may come within Start, and drops the job from the set.
  auto place = std::make_shared<std::weak_ptr<GenerationJob>>();
  const auto on_end = [this, place] {
    jobs_.erase(place->lock());
    LeaveWhenDrained();
  };
  const auto job =
      std::make_shared<GenerationJob>(GenerationJob::Surroundings{dispatcher_, metrics_, model_}, std::move(request),
                                      std::move(facts), call.route->format(model_->tokenizer), call.exchange, on_end);
  *place = job;
  jobs_.insert(job);
  job->Start(call.client);
}

}  // namespace tokenferry

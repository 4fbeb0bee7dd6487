// The front of `tokenferry serve`: HTTP on one side, rank 0 on the other. A process of its own and no rank, so that it
// still answers when a rank dies and MPI ends the others.
//
// One thread does all but reading requests' bodies (JSON, templates, tokenizer), which the workers do.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/host/clock.h"
#include "runtime/serve/front/access.h"
#include "runtime/serve/front/dispatcher.h"
#include "runtime/serve/front/front_options.h"
#include "runtime/serve/front/generation_job.h"
#include "runtime/serve/front/metrics_registry.h"
#include "runtime/serve/front/rank_supervisor.h"
#include "runtime/serve/http/http_server.h"

namespace tokenferry {

class Front {
 public:
  // `socket`: to rank 0, which has started this process.
  Front(const FrontOptions& options, OwnedFd socket);
  // This process starts the ranks, and starts them again as `job` says.
  Front(const FrontOptions& options, RankJobOptions job);
  ~Front();

  // Listens, reads the model, and serves until the ranks have ended for good, SIGTERM or SIGINT has drained it, or the
  // second signal. Returns the process's exit status: 0 after a drain, else 1. What keeps it from starting goes to rank
  // 0 as the reason of a Goodbye and is printed there, or is printed here when this process starts the ranks.
  int Run();

 private:
  // kRestarting: requests wait for ranks that are being started again.
  enum class Phase : uint8_t { kLoading, kServing, kRestarting, kEnding };
  template <class Ranks>
  Front(std::in_place_t, const FrontOptions& options, Ranks ranks);
  struct Route;
  struct Call {
    HttpRequest request;
    std::shared_ptr<HttpExchange> exchange;
    std::string client;            // see Access
    const Route* route = nullptr;  // none: there is no such
  };
  struct Route {
    const char* method;
    const char* path;  // one that ends in '/' stands for all that begin with it
    Access::Needs needs;
    void (Front::*handle)(Call call);
    std::unique_ptr<AnswerFormat> (*format)(Tokenizer);  // of errors too
    const char* summary;
    // Of its bodies; null: it has none. `example` is one.
    FieldTable (*fields)(const std::string& example, const ServedModel& model, const ApiLimits& limits) = nullptr;
    const char* example = nullptr;
  };
  static const std::vector<Route>& Routes();

  absl::Status Start();
  // From the ranks.
  void OnMessage(Message message);
  void OnReady(tokenferry::Ready ready);
  void OnRanksLost(const std::string& reason);
  void OnRanksEnded(const std::string& reason);
  // The end.
  void OnSignal();
  void Drain();
  void LeaveWhenDrained();
  void FailEverybody(const HttpError& error);
  void Leave(int exit_status);
  void LeaveSoon();
  void OnTick();

  void Dispatch(HttpRequest request, std::shared_ptr<HttpExchange> exchange);
  // Answers with an error, as the route writes them.
  void Refuse(const Call& call, const HttpError& error) const;
  // Why no request for text is taken now, or none; the same for one whose body a worker is to read.
  std::optional<HttpError> Unready() const;
  std::optional<HttpError> Busy() const;
  bool Responsive() const;
  void Generate(Call call, const char* id_prefix,
                absl::StatusOr<GenerationRequest> (*parse)(std::string, const ServedModel&, const ApiLimits&,
                                                           FieldTable*));
  void StartJob(Call call, GenerationRequest request, const std::string& id);
  // Runs `work` on a worker and answers with what it returns.
  void RespondFromWorker(Call call, std::function<absl::StatusOr<std::string>(const HttpRequest&)> work);

  void Completions(Call call);
  void ChatCompletions(Call call);
  void Messages(Call call);
  void CountTokens(Call call);
  void Models(Call call);
  void OpenApiJson(Call call);
  void Tokenize(Call call);
  void Detokenize(Call call);
  void Health(Call call);
  void Ready(Call call);
  void Dashboard(Call call);
  void Version(Call call);
  void Metrics(Call call);
  void Experts(Call call);
  void AdminDrain(Call call);
  std::string StateJson() const;
  std::string NextId();  // for a request; not guessable, and no other server's

  const FrontOptions options_;
  boost::asio::io_context io_;
  boost::asio::thread_pool workers_;
  boost::asio::signal_set signals_;
  boost::asio::steady_timer tick_, leave_timer_, drain_timer_;
  std::unique_ptr<Access> access_;
  std::shared_ptr<const ServedModel> model_;
  RankSupervisor ranks_;
  Dispatcher dispatcher_;
  MetricsRegistry metrics_;
  std::set<std::shared_ptr<GenerationJob>> jobs_;
  std::unique_ptr<HttpServer> server_;  // ends before those whose clients it has
  int64_t num_parsing_ = 0;

  Phase phase_ = Phase::kLoading;
  bool draining_ = false;
  int exit_status_ = 1;
  LoadingProgress progress_;
  tokenferry::Ready ready_;
  JobStats job_stats_;
  Stopwatch since_sign_;  // of the ranks
  int64_t created_ = 0;
  uint64_t id_seed_ = 0, next_id_ = 0;
  Stopwatch since_end_;
};

}  // namespace tokenferry

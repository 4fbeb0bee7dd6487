#include "launch/commands/cmd_serve.h"

#include <signal.h>

#include <algorithm>

#include "core/host/clock.h"
#include "core/log.h"
#include "launch/cli/flag_set.h"
#include "launch/cli/version.h"
#include "launch/ranks/bootstrap.h"
#include "launch/session/serve_loop.h"
#include "runtime/serve/front/front.h"
#include "runtime/serve/process/rank_job.h"

namespace tokenferry {
namespace {

// Until the front listens: it reads the tokenizer, which takes about a second for the largest.
constexpr absl::Duration kFrontStarts = absl::Seconds(60);
// Rank 0's reason has to be on its way to the front before MPI ends the process.
constexpr absl::Duration kGoodbye = absl::Milliseconds(500);

void OnDrainSignal(int) { RankLink::RequestDrain(); }

void DrainOn(int signal_number, int flags) {
  struct sigaction action = {};
  action.sa_handler = OnDrainSignal;
  action.sa_flags = SA_RESTART | flags;
  sigaction(signal_number, &action, nullptr);
}

void DeclareHttpFlags(FlagSet& set, HttpLimits* http) {
  constexpr int64_t kMany = int64_t{1} << 40;
  set.Group("Limits of connections");
  set.Integer("max-header-bytes", &http->max_header_bytes, 256, 1 << 20, "of a request's head");
  set.Integer("max-header-fields", &http->max_header_fields, 1, 10000, "fields of a request's head");
  set.Duration("header-timeout", &http->header_timeout, "for a request's head to come");
  set.Integer("max-body-bytes", &http->max_body_bytes, 1, int64_t{1} << 30, "of a request's body");
  set.Duration("body-timeout", &http->body_timeout, "for a request's body to come");
  set.Integer("max-connections", &http->max_connections, 1, 1 << 20, "open connections");
  set.Integer("max-unread-bytes", &http->max_unread_bytes, 1024, kMany, "of a stream that its client does not read");
  set.Duration("write-timeout", &http->write_timeout, "for a client to read anything of its answer");
  set.Duration("idle-timeout", &http->idle_timeout, "between two requests of a connection");
}

void DeclareApiFlags(FlagSet& set, ApiLimits* api) {
  set.Group("Limits of requests");
  set.Integer("max-json-depth", &api->max_json_depth, 2, 1000, "nested levels of a body");
  set.Integer("max-sequences", &api->max_sequences, 1, 65536, "sequences of a request: n times its prompts");
  set.Integer("max-stop-strings", &api->max_stop_strings, 0, 10000, "strings of `stop`");
  set.Integer("max-stop-bytes", &api->max_stop_bytes, 1, 1 << 20, "of each");
  set.Integer("max-logit-bias", &api->max_logit_biases, 0, kMaxLogitBiases, "tokens of `logit_bias`");
  set.Integer("max-top-logprobs", &api->max_top_logprobs, 0, kMaxTopLogprobs, "of `logprobs` and `top_logprobs`");
  set.Integer("max-waiting", &api->max_waiting, 1, 1 << 20, "requests that wait for their turn");
  set.Duration("request-timeout", &api->request_timeout, "the longest that a request may take");
}

// Beyond this host a server needs keys.
absl::Status CheckExposure(const FrontOptions& f) {
  const bool loopback = f.host == "localhost" || f.host == "::1" || f.host.rfind("127.", 0) == 0;
  if (loopback || f.insecure || !f.api_key_file.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--host ", f.host,
                                                 " lets other machines in: give --api-key-file F, or "
                                                 "--insecure if anybody who can reach this port may use it, with "
                                                 "--allowed-host for each name by which they reach it"));
}

}  // namespace

ServeCommand::ServeCommand() = default;
ServeCommand::~ServeCommand() = default;

void ServeCommand::Declare(FlagSet& set, SharedFlags* shared) {
  FrontOptions* f = &flags_.front;
  set.Text("host", &f->host, "address to listen on");
  set.Integer("port", &f->port, 0, 65535, "0: any that is free");
  set.Text("served-model-name", &f->model.name, "the model's id for clients; without it the folder's name");
  DeclareServingSize(set, &f->model.max_model_len, &flags_.max_num_seqs);
  set.Text("chat-template", &f->model.chat_template,
           "a file, or the name of one of the model's templates, in place of its default one");
  set.Duration("step-target", &flags_.step_target, "of a step's time: how much of waiting prompts it takes");
  set.Duration("health-timeout", &f->health_timeout, "without a sign of the ranks, until /health says so");
  set.Duration("drain-timeout", &f->drain_timeout, "for running requests after SIGTERM");
  set.Choice("metrics-compat", &f->metrics_compat, {{"none", MetricsCompat::kNone}, {"vllm", MetricsCompat::kVllm}},
             "vllm: /metrics has the counters that vLLM has too under its names as well");
  set.Group("Access");
  set.Text("api-key-file", &f->api_key_file, "file with API keys, one a line; without it only this host may ask");
  set.Switch("insecure", &f->insecure, "let other machines in without a key, by the names of --allowed-host");
  set.Texts("allowed-host", &f->allowed_hosts,
            "name that Host and Origin may have besides this host's own; repeatable");
  DeclareHttpFlags(set, &f->http);
  DeclareApiFlags(set, &f->api);
  DeclareModelFlags(set, shared);
  DeclareEngineFlags(set, shared);
}

absl::Status ServeCommand::Check(const FlagSet& set, SharedFlags* shared) {
  flags_.front.model.dir = shared->model;
  flags_.front.version = VersionNumber();
  TF_RETURN_IF_ERROR(CheckExposure(flags_.front));
  return CheckEngineFlags(set, *shared);
}

std::optional<int> ServeCommand::RunInsteadOfRanks(const SharedFlags& shared) {
  absl::StatusOr<std::optional<OwnedFd>> socket = TakeFrontSocket();
  if (!socket.ok()) {
    PrintError(socket.status().message());
    return 2;
  }
  if (!*socket) return std::nullopt;
  SetLogLevel(shared.log_level);
  return Front(flags_.front, **std::move(socket)).Run();
}

absl::Status ServeCommand::PrepareProcess(const SharedFlags&, const LauncherInfo& launcher, char* const* argv) {
  // mpirun hands this signal to every rank, and leaves them alone otherwise.
  DrainOn(SIGUSR1, 0);
  std::optional<OwnedFd> socket;
  if (launcher.rank == 0) {
    TF_ASSIGN_OR_RETURN(socket, ConnectToFront());
  }
  // A front that has started this process is asked itself, and ends its ranks by these.
  if (!launcher.launched &&
      !socket) {  // mpirun ends its ranks a second after these two; the next one of them ends at once
    DrainOn(SIGTERM, SA_RESETHAND);
    DrainOn(SIGINT, SA_RESETHAND);
  }
  if (launcher.rank != 0) return absl::OkStatus();
  if (!socket) {
    TF_ASSIGN_OR_RETURN(socket, StartFront(argv));
  }
  link_ = std::make_unique<RankLink>(*std::move(socket));
  TF_RETURN_IF_ERROR(link_->AwaitHello(kFrontStarts));
  link_->Send(Hello{});
  return absl::OkStatus();
}

absl::Status ServeCommand::Serve(RankContext& context, RankLink* link) const {
  TF_ASSIGN_OR_RETURN(std::unique_ptr<ModelFiles> files, OpenModel(context, TokenizerUse::kNeeded));
  const Stopwatch since_start;
  Stopwatch since_told;
  const auto on_progress = [&](int64_t done, int64_t total) {
    // The front ends ranks that say nothing for long: what comes once is always said.
    if (link == nullptr || (done < total && since_told.elapsed() < absl::Milliseconds(200))) return;
    since_told = Stopwatch();
    const double seconds = since_start.seconds(), left = static_cast<double>(total - done);
    link->Send(LoadingProgress{done, total, done > 0 ? seconds * left / static_cast<double>(done) : 0});
  };
  on_progress(0, 0);
  TF_ASSIGN_OR_RETURN(std::unique_ptr<ModelSession> session,
                      StartServingSession(context, std::move(files),
                                          {flags_.max_num_seqs, flags_.front.model.max_model_len}, on_progress));
  return RunServing(context, *session, flags_.step_target, link);
}

absl::Status ServeCommand::Run(RankContext& context) const {
  RankLink* const link = context.rank() == RankId(0) ? link_.get() : nullptr;
  const absl::Status status = Serve(context, link);
  if (link != nullptr) link->End(status.ok() ? "drained" : std::string(status.message()), kGoodbye);
  return status;
}

}  // namespace tokenferry

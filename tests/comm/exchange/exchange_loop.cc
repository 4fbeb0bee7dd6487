// A rank that exchanges for ever, as an engine would: victim and survivors of fault_test.py and of tests/cluster.
//   exchange_loop TIMEOUT PATH [FAULT RANK PHASE]
// With a FAULT that rank strikes itself when it comes to that phase, once, in layer 1 of step 3: `stop` and `kill` by
// signals; `hold` waits until something else has struck and made a file TF_SAID_DIR/struck. PHASE is one of CallSite,
// or "experts". In that step every rank prints "enter R LAYER PHASE at NS" when it comes to a phase: only who is in a
// phase waits in it.
// On path two_level, ranks of one host say that they are on two: the first half and the others.
// Prints "rank R pid P" once, rank 0 "step S" after each step, the victim "strike NS" (CLOCK_MONOTONIC) before it
// strikes. On an error a rank says "ended at NS: .." on stderr and ends the group. With TF_SAID_DIR=DIR in its
// environment a rank's stderr is DIR/rank-R: mpirun may lose what it should pass on when it ends a job because a host
// is lost.
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "comm/transport/faulty_transport.h"
#include "comm/transport/mpi_session.h"
#include "comm/transport/mpi_transport.h"
#include "comm/transport/topology.h"
#include "comm/tuning/exchange_choice.h"
#include "core/device/cpu_device.h"
#include "core/host/clock.h"
#include "tests/comm/transport/hosted_transport.h"

namespace tokenferry {
namespace {

constexpr int kTokens = 8, kTopK = 2, kExperts = 6, kHidden = 64, kLayers = 4;
constexpr int kFaultLayer = 1;
constexpr int64_t kFaultStep = 3;

struct Settings {
  absl::Duration timeout;
  ExchangePath path = ExchangePath::kAllToAllV;
  std::string fault, phase;  // empty: none
  int victim = -1;
};

class Striker {
 public:
  Striker(const Settings& settings, int rank) : settings_(settings), rank_(rank), is_armed_(rank == settings.victim) {}

  void Pass(const CallSite& site) {
    if (settings_.fault.empty() || site.step != kFaultStep) return;
    std::printf("enter %d %d %s at %lld\n", rank_, site.layer, site.phase, static_cast<long long>(SteadyNanos()));
    std::fflush(stdout);
    if (!is_armed_ || site.layer != kFaultLayer || settings_.phase != site.phase) return;
    is_armed_ = false;
    std::printf("strike %lld\n", static_cast<long long>(SteadyNanos()));
    std::fflush(stdout);
    if (settings_.fault == "hold") Hold();
    if (settings_.fault == "stop") raise(SIGSTOP);
    if (settings_.fault == "kill") raise(SIGKILL);
  }

 private:
  static void Hold() {
    const char* dir = std::getenv("TF_SAID_DIR");
    if (dir == nullptr) std::fputs("exchange_loop: hold needs TF_SAID_DIR\n", stderr), std::exit(2);
    const std::string struck = absl::StrCat(dir, "/struck");
    const Deadline deadline = Deadline::After(absl::Minutes(1));
    while (access(struck.c_str(), F_OK) != 0 && !deadline.Expired()) usleep(1000);
  }

  const Settings& settings_;
  const int rank_;
  bool is_armed_;
};

void SayInto(const char* dir, int rank) {
  const int file = open(absl::StrCat(dir, "/rank-", rank).c_str(), O_WRONLY | O_CREAT, 0600);
  if (file < 0 || dup2(file, STDERR_FILENO) < 0) std::perror("exchange_loop: TF_SAID_DIR");
}

absl::Status Loop(Transport& transport, ExchangePath path, Striker& striker) {
  auto device = CreateCpuDevice({});
  TF_ASSIGN_OR_RETURN(auto stream, device->CreateStream());
  TF_ASSIGN_OR_RETURN(auto exchange, CreateExchange(transport, *device, {.hidden = kHidden, .path = path}));
  const Placement placement = Placement::Linear(kExperts, transport.num_ranks());
  std::vector<int32_t> experts;
  for (int i = 0; i < kTokens * kTopK; ++i) experts.push_back((i + transport.rank().value) % kExperts);
  TF_ASSIGN_OR_RETURN(Buffer idx, device->Allocate(experts.size() * 4, MemoryKind::kDevice, "experts"));
  TF_ASSIGN_OR_RETURN(Buffer weight, device->Allocate(experts.size() * 4, MemoryKind::kDevice, "weights"));
  TF_ASSIGN_OR_RETURN(Buffer hidden, device->Allocate(kTokens * kHidden * 4, MemoryKind::kDevice, "hidden"));
  stream->CopyToDevice(idx.data(), experts.data(), idx.num_bytes());
  stream->Fill(weight.data(), 0, weight.num_bytes());
  stream->Fill(hidden.data(), 0, hidden.num_bytes());
  const Routing routing{MakeMatrix<int32_t>(idx.data(), kTokens, kTopK),
                        MakeMatrix<float>(weight.data(), kTokens, kTopK)};
  const auto rows = MakeMatrix<float>(hidden.data(), kTokens, kHidden);
  for (int64_t step = 0;; ++step) {
    for (int layer = 0; layer < kLayers; ++layer) {
      const CallSite site{"moe", layer, step};
      TF_RETURN_IF_ERROR(exchange->Plan(*stream, site, routing, placement));
      TF_ASSIGN_OR_RETURN(const ExpertRows arrived, exchange->Dispatch(*stream, site, rows));
      striker.Pass({"experts", layer, step});
      TF_ASSIGN_OR_RETURN(const FloatMatrix out, exchange->ExpertOut());
      stream->Fill(out.data, 0, arrived.max_selections * kHidden * sizeof(float));
      TF_RETURN_IF_ERROR(exchange->Combine(*stream, site, routing.weight, rows));
      TF_RETURN_IF_ERROR(stream->Synchronize());
    }
    if (transport.rank().value == 0) std::printf("step %lld\n", static_cast<long long>(step));
    std::fflush(stdout);
    usleep(1000);
  }
}

int Main(const Settings& settings) {
  auto session = MpiSession::Start(OnSigterm::kRequestStop);
  if (!session.ok()) {
    std::fprintf(stderr, "%s\n", session.status().ToString().c_str());
    return 2;
  }
  auto transport = CreateMpiTransport({.timeout = settings.timeout});
  absl::Status status = transport.status();
  if (status.ok()) {
    std::printf("rank %d pid %d\n", (*transport)->rank().value, static_cast<int>(getpid()));
    std::fflush(stdout);
    if (const char* dir = std::getenv("TF_SAID_DIR")) SayInto(dir, (*transport)->rank().value);
    Striker striker(settings, (*transport)->rank().value);
    FaultOptions faults;
    faults.before_call = [&](const CallSite& site) { striker.Pass(site); };
    *transport = CreateFaultyTransport(*std::move(transport), faults);
    const int num_ranks = (*transport)->num_ranks();
    if (settings.path == ExchangePath::kTwoLevel && Topology::Of(**transport).num_hosts() == 1 && num_ranks > 1) {
      HostedTransport hosted(**transport, std::string(num_ranks / 2, 'a') + std::string((num_ranks + 1) / 2, 'b'));
      status = Loop(hosted, settings.path, striker);
    } else {
      status = Loop(**transport, settings.path, striker);
    }
  }
  std::fprintf(stderr, "ended at %lld: %s\n", static_cast<long long>(SteadyNanos()), status.ToString().c_str());
  if (transport.ok()) (*transport)->Abort(status);
  return 1;
}

bool ParsePath(const std::string& name, ExchangePath& path) {
  for (const PathInfo* info : kExchangePaths) {
    if (name != ExchangePathName(info->path)) continue;
    path = info->path;
    return true;
  }
  return false;
}

}  // namespace
}  // namespace tokenferry

int main(int argc, char** argv) {
  tokenferry::Settings settings;
  bool ok = (argc == 3 || argc == 6) && absl::ParseDuration(argv[1], &settings.timeout) &&
            tokenferry::ParsePath(argv[2], settings.path);
  if (ok && argc == 6) {
    settings.fault = argv[3];
    settings.phase = argv[5];
    ok = absl::SimpleAtoi(argv[4], &settings.victim) &&
         (settings.fault == "stop" || settings.fault == "kill" || settings.fault == "hold");
  }
  if (!ok) {
    std::fprintf(stderr, "usage: exchange_loop TIMEOUT PATH [stop|kill|hold RANK PHASE]\n");
    return 2;
  }
  return tokenferry::Main(settings);
}

#include "launch/ranks/bootstrap.h"

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "comm/transport/collectives.h"
#include "comm/transport/local_transport.h"
#include "comm/transport/mpi_session.h"
#include "comm/transport/mpi_transport.h"
#include "comm/wait/wait.h"
#include "core/log.h"
#include "launch/ranks/cpu_report.h"
#include "launch/ranks/rank_setup.h"
#include "launch/ranks/stdout_watch.h"

namespace tokenferry {
namespace {

constexpr int kFailed = 1;
constexpr unsigned kSecondsToStop = 3;
// Launchers end all ranks when the first one fails.
constexpr absl::Duration kFirstRankSpeaks = absl::Milliseconds(500);
// A failed job is over within two seconds, also when a rank is busy computing.
constexpr absl::Duration kLocalGrace = absl::Milliseconds(1500);

void OnSigterm(int) {
  RequestStop();
  alarm(kSecondsToStop);  // for a rank that waits for nobody: SIGALRM ends it
}

void HandleSigterm() {
  struct sigaction action = {};
  action.sa_handler = OnSigterm;
  action.sa_flags = SA_RESTART;
  sigaction(SIGTERM, &action, nullptr);
}

// Of all ranks, on rank 0; elsewhere none.
absl::StatusOr<std::vector<CpuShare>> GatherCpuShares(Transport& control, const RankSetup& setup) {
  const int local_idx = setup.topology.local_idx_per_rank[control.rank().value];
  const CpuShare mine{setup.affinity.num_threads, static_cast<int>(setup.cpus_per_local_rank[local_idx].size())};
  const absl::string_view bytes(reinterpret_cast<const char*>(&mine), sizeof(mine));
  TF_ASSIGN_OR_RETURN(const auto all, Gather(control, {.phase = "start: threads"}, RankId(0), bytes));
  std::vector<CpuShare> shares(all.size());
  for (size_t r = 0; r < all.size(); ++r) {
    if (all[r].size() != sizeof(CpuShare)) return absl::DataLossError(absl::StrCat("rank ", r, " tells no threads"));
    std::memcpy(&shares[r], all[r].data(), sizeof(CpuShare));
  }
  return shares;
}

// The start of a rank and its body. `setup` is for the caller to keep until it has said what became of it: a transport
// of device memory waits for the others when it ends, unless Abort has been called.
absl::Status RunRank(const SharedFlags& flags, NcclUse nccl, Transport& control, RankSetup& setup,
                     absl::FunctionRef<absl::Status(RankContext&)> body) {
  const RankId rank = control.rank();
  if (control.num_ranks() > 1) SetLogRank(rank.value);
  setup.transport = &control;
  TF_ASSIGN_OR_RETURN(setup, SetUpRank(control, flags, nccl));
  TF_ASSIGN_OR_RETURN(const std::vector<CpuShare> shares, GatherCpuShares(control, setup));
  if (rank.value == 0) {
    LogInfo(absl::StrCat(setup.topology.ToString(), "; instruction set ", IsaName(setup.isa), " on all; ",
                         setup.device->ToString(), setup.device_transport != nullptr ? ", NCCL; " : "; ",
                         DescribeCpuShares(shares)));
    const std::string idle =
        WarnOfIdleCpus(GetLauncherInfo().name, AllowedCpusOf(getppid()), setup.cpus_per_local_rank, flags.num_threads);
    if (!idle.empty()) LogWarning(idle);
  }
  LogDebug(setup.affinity.ToString());
  RankContext context{.flags = flags,
                      .transport = *setup.transport,
                      .device = *setup.device,
                      .topology = setup.topology,
                      .gpu_per_rank = setup.gpu_per_rank,
                      .gpu_ordinal = setup.gpu_ordinal,
                      .isa = setup.isa,
                      .num_threads = setup.affinity.num_threads,
                      .cpus = setup.affinity.cpus};
  return body(context);
}

void PrintRankError(int rank, const absl::Status& status) {
  PrintError(absl::StrCat("rank ", rank, ": ", status.message()));
}

int RunMpiRank(const SharedFlags& flags, NcclUse nccl, absl::FunctionRef<absl::Status(RankContext&)> body) {
  const LauncherInfo launcher = GetLauncherInfo();
  const int launched_as = launcher.rank;
  auto session = MpiSession::Start(OnSigterm::kLeave);
  if (!session.ok()) {
    PrintRankError(launched_as, session.status());
    return kFailed;
  }
  if (const absl::Status status = CheckLauncher(launcher, (*session)->num_ranks()); !status.ok()) {
    if (!launcher.tells_size) {
      PrintRankError(launched_as, status);  // who knows whether there is a rank 0 to speak
    } else if (launched_as == 0) {
      PrintError(status.message());
    } else {
      absl::SleepFor(kFirstRankSpeaks);
    }
    return kFailed;
  }
  HandleSigterm();
  if (launched_as == 0) WatchStdout();
  auto transport = CreateMpiTransport({.timeout = flags.comm_timeout});
  if (!transport.ok()) {
    PrintRankError(launched_as, transport.status());
    std::fflush(nullptr);
    _exit(kFailed);  // MPI_Finalize would wait for the ranks that did not come; mpirun ends the others
  }
  const int rank = (*transport)->rank().value;
  const Topology topology = Topology::Of(**transport);
  (*session)->UnlinkSharedFiles(static_cast<int>(topology.hosts[topology.host_idx_per_rank[rank]].ranks.size()));
  RankSetup setup;
  const absl::Status status = RunRank(flags, nccl, **transport, setup, body);
  if (status.ok()) return 0;
  if (!IsAgreedOn(status)) {
    PrintRankError(rank, status);
    std::fflush(nullptr);
    setup.transport->Abort(status);
    _exit(kFailed);
  }
  // All ranks are here with the same error, so they can part in order. The first to leave makes mpirun end the others:
  // they have nothing left to say.
  signal(SIGTERM, SIG_DFL);
  // A job that all ranks have left because they were asked to stop, or because nobody reads what rank 0 prints, has no
  // error to tell. The latter is no failure either: mpirun would report another status than 0 in ten lines.
  const bool stopped = absl::IsCancelled(status) && StopRequested();
  const bool unread = absl::IsCancelled(status) && !stopped && (rank != 0 || !CheckStdoutIsRead().ok());
  if (rank == 0 && !stopped && !unread) PrintError(status.message());
  return unread ? 0 : kFailed;
}

// What the threads of the local ranks tell the one that started them.
struct LocalJob {
  std::mutex mutex;
  std::condition_variable changed;
  int num_running = 0;
  bool has_failed = false;

  // Until all ranks have ended, or for kLocalGrace after the first one has failed: false when some are still running.
  // Not absl::Mutex, whose timeouts are points of the wall clock.
  bool Wait() {
    std::unique_lock lock(mutex);
    const auto done = [this] { return num_running == 0; };
    changed.wait(lock, [&] { return done() || has_failed; });
    return done() || changed.wait_for(lock, absl::ToChronoMilliseconds(kLocalGrace), done);
  }
};

void RunLocalRank(const SharedFlags& flags, Transport& transport, absl::FunctionRef<absl::Status(RankContext&)> body,
                  LocalJob* job) {
  RankSetup setup;
  const absl::Status status = RunRank(flags, NcclUse::kNever, transport, setup, body);
  if (!status.ok()) {
    const std::lock_guard lock(job->mutex);
    // The first error is the cause: those that follow from it only repeat it.
    if (!job->has_failed) {
      if (IsAgreedOn(status) || transport.num_ranks() == 1) {
        PrintError(status.message());
      } else {
        PrintRankError(transport.rank().value, status);
      }
    }
    job->has_failed = true;
    job->changed.notify_all();
  }
  if (!status.ok() && !IsAgreedOn(status)) setup.transport->Abort(status);
  const std::lock_guard lock(job->mutex);
  --job->num_running;
  job->changed.notify_all();
}

int RunLocalRanks(const SharedFlags& flags, int num_ranks, absl::FunctionRef<absl::Status(RankContext&)> body) {
  auto transports = CreateLocalGroup(num_ranks, {.timeout = flags.comm_timeout});
  LocalJob job;
  job.num_running = num_ranks;
  std::vector<std::thread> threads;
  for (auto& transport : transports) {
    threads.emplace_back([&flags, &transport, body, &job] { RunLocalRank(flags, *transport, body, &job); });
  }
  if (!job.Wait()) {
    std::fflush(nullptr);
    _exit(kFailed);  // a rank is still computing; there is no way to end a thread
  }
  for (std::thread& thread : threads) thread.join();
  return job.has_failed ? kFailed : 0;
}

}  // namespace

absl::StatusOr<RankPlan> PlanRanks(const SharedFlags& flags, const LauncherInfo& launcher) {
  RankPlan plan;
  plan.transport = flags.transport;
  if (plan.transport == TransportChoice::kAuto) {
    // A launcher's only rank may still be several: in a shell that srun has started, for instance.
    const bool threads = launcher.tells_size && launcher.num_ranks == 1 && flags.num_ranks > 1;
    plan.transport = launcher.launched && !threads ? TransportChoice::kMpi : TransportChoice::kLocal;
    if (plan.transport == TransportChoice::kMpi) plan.nccl = NcclUse::kIfPossible;
  } else if (plan.transport == TransportChoice::kNccl) {
    plan.transport = TransportChoice::kMpi;
    plan.nccl = NcclUse::kAlways;
  }
  if (plan.transport == TransportChoice::kLocal) {
    if (launcher.launched && launcher.num_ranks > 1) {
      return absl::InvalidArgumentError(absl::StrCat("--transport local under ", launcher.name, " would start ",
                                                     launcher.tells_size ? "" : "at least ", launcher.num_ranks,
                                                     " separate jobs: leave it out and use --ranks ",
                                                     launcher.num_ranks, ", or use --transport mpi"));
    }
    plan.num_ranks = flags.num_ranks == 0 ? 1 : flags.num_ranks;
    return plan;
  }
  plan.num_ranks = launcher.num_ranks;
  if (!launcher.tells_size && flags.num_ranks != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--ranks ", flags.num_ranks, ": ", launcher.name,
                     " has started the ranks, and does not tell how many; leave --ranks out, or add --transport local "
                     "for ranks as threads of this process"));
  }
  if (flags.num_ranks != 0 && flags.num_ranks != launcher.num_ranks) {
    return absl::InvalidArgumentError(absl::StrCat("--ranks ", flags.num_ranks, ": mpirun has started ",
                                                   launcher.num_ranks, "; use mpirun -n ", flags.num_ranks,
                                                   ", or --transport local for ranks as threads"));
  }
  return plan;
}

int RunRanks(const SharedFlags& flags, const RankPlan& plan, absl::FunctionRef<absl::Status(RankContext&)> body) {
  SetLogLevel(flags.log_level);
  if (plan.transport == TransportChoice::kMpi) return RunMpiRank(flags, plan.nccl, body);
  return RunLocalRanks(flags, plan.num_ranks, body);
}

void RaiseFileLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);  // where it fails the limit stays, and opening a file too many says so
}

void PrintError(absl::string_view message) {
  // One write, so that the lines of several ranks do not mix.
  const std::string line =
      absl::StrCat("tokenferry: ", absl::StrReplaceAll(message, {{"\n", "\\n"}, {"\r", "\\r"}}), "\n");
  std::fflush(stdout);
  std::fputs(line.c_str(), stderr);
}

}  // namespace tokenferry

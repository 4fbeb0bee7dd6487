#include "comm/transport/mpi_session.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <set>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "comm/transport/mpi_status.h"
#include "comm/wait/wait.h"
#include "core/host/clock.h"

namespace tokenferry {
namespace {

// PMIx, through which a rank tells the launcher that it has finalised, leaves without an answer after two seconds.
constexpr absl::Duration kLauncherIsLate = absl::Milliseconds(1900);
constexpr absl::Duration kLauncherCatchesUp = absl::Seconds(3);

// Whether one rank may read another's memory: asked by a child that reads its parent's, which, like another rank, is
// not its descendant.
bool CanReadOtherProcess() {
  static const long secret = 0x746f6b656e;
  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child < 0) return false;
  if (child == 0) {
    long seen = 0;
    iovec local{&seen, sizeof(seen)};
    iovec remote{const_cast<long*>(&secret), sizeof(secret)};
    const ssize_t n = process_vm_readv(parent, &local, 1, &remote, 1, 0);
    _exit(n == static_cast<ssize_t>(sizeof(seen)) && seen == secret ? 0 : 1);
  }
  int status = 0;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// The files through which Open MPI's vader lets ranks of a host talk: "DIR/vader_segment.HOST.UID.JOB.LOCAL_RANK".
std::vector<std::string> MappedSharedFiles() {
  std::set<std::string> files;  // one may be mapped in several pieces
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    const size_t path = line.find('/');
    if (path != std::string::npos && absl::StrContains(line, "/vader_segment.")) files.insert(line.substr(path));
  }
  return {files.begin(), files.end()};
}

void HandleSigterm(int) { RequestStop(); }

}  // namespace

void SetMpiEnvironmentDefaults() {
  constexpr int kKeepUsers = 0;
  if (!CanReadOtherProcess()) setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", kKeepUsers);
  setenv("OMPI_MCA_btl_base_warn_component_unused", "0", kKeepUsers);
  // Open MPI sends the rest of a large message in one piece, in front of the few bytes that would let the other side
  // begin with its own: of two that send to each other over TCP only one does at a time. Pieces leave room.
  setenv("OMPI_MCA_btl_tcp_rdma_pipeline_frag_size", "131072", kKeepUsers);
  setenv("OMPI_MCA_mpi_warn_on_fork", "0", kKeepUsers);
  setenv("OMPI_MCA_ess_singleton_isolated", "1", kKeepUsers);  // without mpirun: no helper process
}

absl::StatusOr<std::unique_ptr<MpiSession>> MpiSession::Start(OnSigterm on_sigterm) {
  int initialized = 0;
  MPI_Initialized(&initialized);
  if (initialized) return absl::FailedPreconditionError("MPI is already initialised in this process");
  SetMpiEnvironmentDefaults();
  int provided = 0;
  TF_RETURN_IF_MPI_ERROR(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided));
  std::unique_ptr<MpiSession> session(new MpiSession());
  TF_RETURN_IF_MPI_ERROR(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
  if (provided < MPI_THREAD_SERIALIZED) {
    return absl::FailedPreconditionError("this MPI library cannot be used from threads (need MPI_THREAD_SERIALIZED)");
  }
  if (on_sigterm == OnSigterm::kRequestStop) {
    struct sigaction action = {};
    action.sa_handler = HandleSigterm;
    action.sa_flags = SA_RESTART;
    sigaction(SIGTERM, &action, nullptr);
  }
  return session;
}

int MpiSession::num_ranks() const {
  int size = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return size;
}

void MpiSession::UnlinkSharedFiles(int num_local_ranks) {
  const char* const local_rank = std::getenv("OMPI_COMM_WORLD_LOCAL_RANK");  // as in the names of the files
  const std::vector<std::string> files = MappedSharedFiles();
  if (local_rank == nullptr || files.size() != static_cast<size_t>(num_local_ranks)) return;
  for (const std::string& file : files) {
    if (absl::EndsWith(file, absl::StrCat(".", local_rank)) && unlink(file.c_str()) == 0) unlinked_.push_back(file);
  }
}

MpiSession::~MpiSession() {
  // MPI_Finalize removes the file, and would tell the user at length that it is not there.
  for (const std::string& file : unlinked_) {
    const int fd = open(file.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    if (fd >= 0) close(fd);
  }
  const Stopwatch watch;
  MPI_Finalize();
  // A launcher that sees a rank's end before its farewell takes it for a crash: the job would have failed after all its
  // work is done.
  if (watch.elapsed() > kLauncherIsLate) absl::SleepFor(kLauncherCatchesUp);
}

}  // namespace tokenferry

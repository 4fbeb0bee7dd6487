#include "comm/transport/host_peers.h"

#include <unistd.h>

#include <cstring>

#include "comm/transport/collectives.h"

namespace tokenferry {

absl::Status HostPeers::Join() {
  ranks_.resize(num_ranks());  // before the first wait, whose error may tell of them
  char name[256] = "";
  gethostname(name, sizeof(name) - 1);
  const ProcessId self = ThisProcess();
  const std::string id(reinterpret_cast<const char*>(&self), sizeof(self));
  const CallSite site{"start"};
  TF_ASSIGN_OR_RETURN(std::vector<std::string> hosts, AllGather(transport_, site, name));
  TF_ASSIGN_OR_RETURN(std::vector<std::string> namespaces, AllGather(transport_, site, ProcessNamespace()));
  TF_ASSIGN_OR_RETURN(const std::vector<std::string> ids, AllGather(transport_, site, id));
  for (int r = 0; r < num_ranks(); ++r) {
    if (ids[r].size() != sizeof(self)) {
      return absl::DataLossError(absl::StrCat("start: rank ", r, " sent no process; is it the same program?"));
    }
    ranks_[r].host = std::move(hosts[r]);
    ranks_[r].process_namespace = std::move(namespaces[r]);
    std::memcpy(&ranks_[r].process, ids[r].data(), sizeof(self));
  }
  return absl::OkStatus();
}

// Of the three below: the same answers on every rank, since who is on whose host is known to all.
bool HostPeers::OneNamespace(int a, int b) const {
  return !ranks_[a].process_namespace.empty() && ranks_[a].process_namespace == ranks_[b].process_namespace;
}

absl::Status HostPeers::CannotReach(int a, int b) const {
  return absl::FailedPreconditionError(absl::StrCat(
      "peer memory: rank ", b, " on host ", ranks_[b].host, " cannot reach the memory of rank ", a, " on host ",
      ranks_[a].host, ": not the same host, or not the same PID namespace; choose path alltoallv"));
}

absl::StatusOr<std::shared_ptr<PeerMemory>> HostPeers::Allocate(const CallSite& site, int64_t bytes_per_rank) {
  for (int r = 1; r < num_ranks(); ++r) {
    if (!OneNamespace(0, r)) return CannotReach(0, r);
  }
  return ShareFile(site, bytes_per_rank, 0, PeerPages::kNow);
}

absl::StatusOr<std::shared_ptr<PeerMemory>> HostPeers::Reserve(const CallSite& site, int64_t bytes_per_rank) {
  std::vector<int> first_rank(num_ranks());  // of each rank's host
  for (int r = 0; r < num_ranks(); ++r) {
    while (ranks_[first_rank[r]].host != ranks_[r].host) ++first_rank[r];
    if (!OneNamespace(first_rank[r], r)) return CannotReach(first_rank[r], r);
  }
  return ShareFile(site, bytes_per_rank, first_rank[rank().value], PeerPages::kLater);
}

absl::Status HostPeers::CheckAlive(RankId rank) const {
  if (!OneNamespace(transport_.rank().value, rank.value) ||
      GetProcessState(ranks_[rank.value].process) != ProcessState::kGone) {
    return absl::OkStatus();
  }
  return absl::UnavailableError(absl::StrCat("the process of rank ", rank.value, " has ended"));
}

std::string HostPeers::ProcessStateOf(RankId rank) const {
  const bool is_known = OneNamespace(transport_.rank().value, rank.value);
  return is_known ? ToString(GetProcessState(ranks_[rank.value].process)) : "";
}

absl::StatusOr<std::shared_ptr<PeerMemory>> HostPeers::ShareFile(const CallSite& site, int64_t bytes_per_rank,
                                                                 int first_rank, PeerPages pages) {
  const int me = rank().value;
  const int64_t num_bytes = num_ranks() * bytes_per_rank;
  absl::StatusOr<SharedFile> file = SharedFile();
  if (me == first_rank) file = SharedFile::Create(num_bytes, pages);
  TF_RETURN_IF_ERROR(AgreeOnStatus(transport_, site, file.status()));
  TF_ASSIGN_OR_RETURN(const std::vector<std::string> addresses, AllGather(transport_, site, file->address()));
  if (me != first_rank) file = SharedFile::Open(addresses[first_rank], num_bytes);
  absl::Status status = file.status();
  std::shared_ptr<PeerMemory> memory;
  if (status.ok()) {
    auto mapped = MapSharedFile(*std::move(file), bytes_per_rank);
    status = mapped.status();
    if (mapped.ok()) memory = *std::move(mapped);
  }
  if (status.ok() && pages == PeerPages::kNow) status = memory->Take(me, 0, bytes_per_rank);
  TF_RETURN_IF_ERROR(AgreeOnStatus(transport_, site, status));  // until here the first rank's file is open
  return memory;
}

}  // namespace tokenferry

#include "comm/transport/collectives.h"

#include <cstring>

#include "absl/strings/cord.h"

namespace tokenferry {
namespace {

constexpr int64_t kMaxControlBytes = int64_t{1} << 32;  // per message: control messages are small
constexpr char kAgreedPayload[] = "tokenferry/agreed";

// Every rank sends send[r] to rank r: first the sizes, then the bytes. The ends agree on every size by construction.
absl::StatusOr<std::vector<std::string>> Swap(Transport& transport, const CallSite& site,
                                              const std::vector<absl::string_view>& send) {
  const int num_ranks = transport.num_ranks();
  std::vector<int64_t> send_sizes(num_ranks), recv_sizes(num_ranks), word_offsets(num_ranks + 1);
  std::vector<int64_t> send_offsets(num_ranks + 1), recv_offsets(num_ranks + 1);
  std::string send_bytes;
  for (int r = 0; r < num_ranks; ++r) {
    send_sizes[r] = static_cast<int64_t>(send[r].size());
    word_offsets[r + 1] = word_offsets[r] + static_cast<int64_t>(sizeof(int64_t));
    absl::StrAppend(&send_bytes, send[r]);
    send_offsets[r + 1] = static_cast<int64_t>(send_bytes.size());
  }
  TF_RETURN_IF_ERROR(transport.HostAllToAllV(site, {send_sizes.data(), word_offsets, recv_sizes.data(), word_offsets}));
  for (int r = 0; r < num_ranks; ++r) {
    if (recv_sizes[r] < 0 || recv_sizes[r] > kMaxControlBytes) {
      return absl::DataLossError(absl::StrCat(ToString(site), ": rank ", r, " announces a message of ", recv_sizes[r],
                                              " bytes; are all ranks in the same call?"));
    }
    recv_offsets[r + 1] = recv_offsets[r] + recv_sizes[r];
  }
  std::string recv_bytes(recv_offsets[num_ranks], '\0');
  CallSite soon = site;  // who has sent a size sends its bytes at once
  soon.pace = WaitPace::kPrompt;
  TF_RETURN_IF_ERROR(transport.HostAllToAllV(soon, {send_bytes.data(), send_offsets, recv_bytes.data(), recv_offsets}));
  std::vector<std::string> out(num_ranks);
  for (int r = 0; r < num_ranks; ++r) out[r] = recv_bytes.substr(recv_offsets[r], recv_sizes[r]);
  return out;
}

absl::Status CheckRoot(const Transport& transport, const CallSite& site, RankId root) {
  if (root.value >= 0 && root.value < transport.num_ranks()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(ToString(site), ": root rank ", root.value, " of ", transport.num_ranks(), " ranks"));
}

}  // namespace

absl::StatusOr<std::vector<std::string>> AllGather(Transport& transport, const CallSite& site, absl::string_view mine) {
  return Swap(transport, site, std::vector<absl::string_view>(transport.num_ranks(), mine));
}

absl::StatusOr<std::vector<std::string>> Gather(Transport& transport, const CallSite& site, RankId root,
                                                absl::string_view mine) {
  TF_RETURN_IF_ERROR(CheckRoot(transport, site, root));
  std::vector<absl::string_view> send(transport.num_ranks());
  send[root.value] = mine;
  TF_ASSIGN_OR_RETURN(std::vector<std::string> all, Swap(transport, site, send));
  if (transport.rank() != root) all.clear();
  return all;
}

absl::StatusOr<std::string> Broadcast(Transport& transport, const CallSite& site, RankId root,
                                      absl::string_view value) {
  TF_RETURN_IF_ERROR(CheckRoot(transport, site, root));
  std::vector<absl::string_view> send(transport.num_ranks());
  if (transport.rank() == root) send.assign(transport.num_ranks(), value);
  TF_ASSIGN_OR_RETURN(std::vector<std::string> all, Swap(transport, site, send));
  return std::move(all[root.value]);
}

absl::Status Barrier(Transport& transport, const CallSite& site) {
  const std::string send(transport.num_ranks(), 'b');
  std::string recv(transport.num_ranks(), '\0');
  std::vector<int64_t> offsets(transport.num_ranks() + 1);
  for (size_t r = 0; r < offsets.size(); ++r) offsets[r] = static_cast<int64_t>(r);
  return transport.HostAllToAllV(site, {send.data(), offsets, recv.data(), offsets});
}

absl::Status AgreeOnStatus(Transport& transport, const CallSite& site, const absl::Status& mine) {
  const int32_t code = static_cast<int32_t>(mine.code());
  std::string bytes(reinterpret_cast<const char*>(&code), sizeof(code));
  absl::StrAppend(&bytes, mine.message());
  TF_ASSIGN_OR_RETURN(const std::vector<std::string> all, AllGather(transport, site, bytes));
  for (size_t r = 0; r < all.size(); ++r) {
    int32_t theirs = 0;
    if (all[r].size() < sizeof(theirs)) {
      return absl::DataLossError(absl::StrCat(ToString(site), ": rank ", r, " sent no status"));
    }
    std::memcpy(&theirs, all[r].data(), sizeof(theirs));
    if (theirs == 0) continue;
    absl::Status agreed(static_cast<absl::StatusCode>(theirs),
                        absl::StrCat("rank ", r, ": ", all[r].substr(sizeof(theirs))));
    agreed.SetPayload(kAgreedPayload, absl::Cord());
    return agreed;
  }
  return absl::OkStatus();
}

bool IsAgreedOn(const absl::Status& status) { return status.GetPayload(kAgreedPayload).has_value(); }

}  // namespace tokenferry

// Small control messages between ranks (host memory), built on Transport::HostAllToAllV. All ranks of the transport
// call the same function in the same order.
#pragma once

#include <string>
#include <vector>

#include "comm/transport/transport.h"

namespace tokenferry {

// Everybody gets every rank's bytes, by rank. Sizes may differ and be 0.
absl::StatusOr<std::vector<std::string>> AllGather(Transport& transport, const CallSite& site, absl::string_view mine);

// `root` gets every rank's bytes, by rank; the others an empty vector.
absl::StatusOr<std::vector<std::string>> Gather(Transport& transport, const CallSite& site, RankId root,
                                                absl::string_view mine);

// Everybody gets root's bytes. `value` is read on root only.
absl::StatusOr<std::string> Broadcast(Transport& transport, const CallSite& site, RankId root, absl::string_view value);

absl::Status Barrier(Transport& transport, const CallSite& site);

// OK when `mine` is OK on all ranks; otherwise, on every rank, the error of the lowest rank that has one, with its rank
// in front. So that all ranks end together when one of them cannot go on (a file it alone reads is broken).
absl::Status AgreeOnStatus(Transport& transport, const CallSite& site, const absl::Status& mine);

// Whether `status` came out of AgreeOnStatus (and of Annotate since), so that every rank has it and one may print it.
bool IsAgreedOn(const absl::Status& status);

}  // namespace tokenferry

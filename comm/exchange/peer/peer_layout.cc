#include "comm/exchange/peer/peer_layout.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "comm/plan/exchange_plan.h"
#include "core/round_up.h"

namespace tokenferry {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kMaxPeerBytes = int64_t{1} << 46;  // far from overflow, far above any host

int64_t Grown(int64_t have, int64_t needed) { return needed <= have ? have : std::max(needed, have + have / 4); }

}  // namespace

PeerCapacity PeerCapacity::AtStart(int64_t tokens, int64_t top_k, int num_ranks) {
  const int64_t selections = std::min(tokens * top_k, kMaxItems);
  return {tokens, std::min(selections, tokens * num_ranks), selections, selections};
}

bool PeerCapacity::Holds(const PeerCapacity& needed) const {
  return needed.tokens <= tokens && needed.send_rows <= send_rows && needed.send_selections <= send_selections &&
         needed.recv_selections <= recv_selections;
}

PeerCapacity PeerCapacity::GrownTo(const PeerCapacity& needed) const {
  return {Grown(tokens, needed.tokens), Grown(send_rows, needed.send_rows),
          Grown(send_selections, needed.send_selections), Grown(recv_selections, needed.recv_selections)};
}

absl::StatusOr<PeerLayout> MakePeerLayout(const PeerCapacity& capacity, int num_ranks, int64_t row_bytes,
                                          int64_t out_bytes) {
  const auto too_large = [&] {
    return absl::ResourceExhaustedError(absl::StrCat(
        "peer memory: an exchange of ", capacity.tokens, " tokens per rank with rows of ", row_bytes, " bytes and ",
        capacity.recv_selections, " expert outputs is too large for ", num_ranks, " ranks; choose path alltoallv"));
  };
  if (capacity.tokens > kMaxPeerBytes / row_bytes || capacity.recv_selections > kMaxPeerBytes / out_bytes)
    return too_large();
  PeerLayout layout;
  int64_t end = 0;
  const auto take = [&](int64_t num_bytes) {
    const int64_t begin = end;
    end = RoundUp(end + num_bytes, kAlignment);
    return begin;
  };
  for (int parity : {0, 1}) {
    layout.row_token[parity] = take(capacity.send_rows * static_cast<int64_t>(sizeof(int32_t)));
    layout.selections[parity] = take(capacity.send_selections * static_cast<int64_t>(sizeof(WireSelection)));
  }
  layout.return_idx = take(capacity.recv_selections * static_cast<int64_t>(sizeof(int32_t)));
  layout.outputs = take(capacity.recv_selections * out_bytes);
  layout.bytes_per_rank = RoundUp(std::max(end, kAlignment), std::lcm(out_bytes, kAlignment));
  layout.outputs_per_rank = layout.bytes_per_rank / out_bytes;
  layout.row_bytes_per_rank =
      RoundUp(std::max<int64_t>(capacity.tokens, 1) * row_bytes, std::lcm(row_bytes, kAlignment));
  layout.rows_per_rank = layout.row_bytes_per_rank / row_bytes;
  if (layout.bytes_per_rank > kMaxPeerBytes || layout.row_bytes_per_rank > kMaxPeerBytes ||
      layout.outputs_per_rank > kMaxItems / num_ranks || layout.rows_per_rank > kMaxItems / num_ranks) {
    return too_large();
  }
  return layout;
}

}  // namespace tokenferry

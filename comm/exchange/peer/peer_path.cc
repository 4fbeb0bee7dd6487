#include "comm/exchange/peer/device_peer_exchange.h"
#include "comm/exchange/peer/device_peer_memory.h"
#include "comm/exchange/peer/peer_exchange.h"
#include "comm/exchange/peer/peer_layout.h"
#include "comm/plan/exchange_planner.h"

namespace tokenferry {
namespace {

// Nothing is sent: a flag raised and seen, which is less than a transfer, for each of 3 phases; rows T H b copied. On
// one host only.
std::optional<PathTraffic> Traffic(const ExchangeShape& shape, const Topology& topology) {
  if (topology.num_hosts() > 1) return std::nullopt;
  const EvenLoad load(shape, topology);
  return PathTraffic{.num_transfers = 3, .self_bytes = load.tokens * load.row};
}

// On GPUs everything is made at the start: what ranks map of each other, rows that are pulled; where they are
// quantised, those at home and widened ones; arrays of the plan; tables of ranks and of the placement, whose experts
// and copies of them are at most all ranks' slots.
int64_t DeviceBytes(const WorstCase& w) {
  const DeviceCapacity capacity{w.tokens, static_cast<int>(w.top_k), w.num_ranks};
  const int64_t word = sizeof(int64_t), idx = sizeof(int32_t), rows = w.rows_in * w.row_bytes;
  const int64_t quantised = w.is_quantised ? (w.rows_in + w.tokens) * w.home_bytes : 0;
  const int64_t plan = 3 * idx * capacity.send_selections() + (idx + word) * w.tokens +
                       (idx + static_cast<int64_t>(sizeof(WireSelection))) * capacity.recv_selections();
  const int64_t of_a_rank = 5 * word + static_cast<int64_t>(sizeof(PeerPart) + sizeof(SendPlanSource));
  const int64_t of_a_location = static_cast<int64_t>(sizeof(DevicePlacement::Location)) + 3 * idx;
  const int64_t fixed = 9 * word + static_cast<int64_t>(sizeof(PeerWaitReport) + sizeof(PlanFault));
  return DevicePeerLayout::For(capacity, w.row_bytes, w.output_bytes).num_bytes + rows + quantised + plan +
         w.num_ranks * (of_a_rank + w.slots * of_a_location) + w.slots * word + fixed;
}

// On CPUs: room for a balanced load. Nothing where that is more than the path can have.
int64_t StartBytes(const WorstCase& w) {
  if (w.device != DeviceKind::kCpu) return DeviceBytes(w);
  const auto layout =
      MakePeerLayout(PeerCapacity::AtStart(w.tokens, w.top_k, w.num_ranks), w.num_ranks, w.home_bytes, w.output_bytes);
  return layout.ok() ? layout->bytes_per_rank + layout->row_bytes_per_rank : 0;
}

int64_t MostBytes(const WorstCase& w) {
  if (w.device != DeviceKind::kCpu) return DeviceBytes(w);
  const int64_t padding = 64 * (w.output_bytes + w.home_bytes);  // parts are multiples of 64 bytes and of a row
  const int64_t control = 1024 + 2 * w.num_ranks * static_cast<int64_t>(sizeof(PlanHeader));
  const int64_t arrays = 2 * (4 * w.rows_out + 8 * w.selections_out);
  return w.tokens * (2 * w.home_bytes + w.row_bytes) + w.selections_in * w.output_bytes + arrays + w.IndexBytes() +
         padding + control;
}

// Ranks that compute on GPUs share their memory, all others the host's. Which it is has been agreed on at start.
absl::StatusOr<std::unique_ptr<PathMover>> Create(const PathContext& context) {
  return context.device.kind() == DeviceKind::kCpu ? CreatePeerMover(context) : CreateDevicePeerMover(context);
}

}  // namespace

const PathInfo kPeerPath = {ExchangePath::kPeer, Create, Traffic, StartBytes, MostBytes};

}  // namespace tokenferry

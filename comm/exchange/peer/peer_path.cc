#include "comm/exchange/peer/device_peer_exchange.h"
#include "comm/exchange/peer/device_peer_memory.h"
#include "comm/exchange/peer/peer_exchange.h"
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

// On GPUs: what ranks map of each other, rows that are pulled, and widened where they were quantised; arrays of the
// plan; tables of ranks and of the placement, whose experts and copies of them are at most all ranks' slots.
int64_t MostDeviceBytes(const WorstCase& w) {
  const DeviceCapacity capacity{w.tokens, static_cast<int>(w.top_k), w.num_ranks};
  const int64_t word = sizeof(int64_t), idx = sizeof(int32_t), rows = w.rows_in * (w.row_bytes + w.home_bytes);
  const int64_t plan = 3 * idx * capacity.send_selections() + (idx + word) * w.tokens +
                       (idx + static_cast<int64_t>(sizeof(WireSelection))) * capacity.recv_selections();
  const int64_t of_a_rank = 5 * word + static_cast<int64_t>(sizeof(PeerPart) + sizeof(SendPlanSource));
  const int64_t of_a_location = static_cast<int64_t>(sizeof(DevicePlacement::Location)) + 3 * idx;
  const int64_t fixed = 9 * word + static_cast<int64_t>(sizeof(PeerWaitReport) + sizeof(PlanFault));
  return DevicePeerLayout::For(capacity, w.row_bytes, w.output_bytes).num_bytes + rows + w.tokens * w.home_bytes +
         plan + w.num_ranks * (of_a_rank + w.slots * of_a_location) + w.slots * word + fixed;
}

int64_t MostBytes(const WorstCase& w) {
  if (w.device != DeviceKind::kCpu) return MostDeviceBytes(w);
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

const PathInfo kPeerPath = {ExchangePath::kPeer, Create, Traffic, MostBytes};

}  // namespace tokenferry

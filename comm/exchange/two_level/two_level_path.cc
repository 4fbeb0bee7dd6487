#include "comm/exchange/two_level/two_level_exchange.h"
#include "comm/exchange/two_level/two_level_memory.h"
#include "comm/exchange/two_level/two_level_plan.h"
#include "comm/peer/peer_flags.h"

namespace tokenferry {
namespace {

// 4 transfers (reduction node: 5); rows D_N H b and outputs o T K H (node: o D_N H) over the network, and nothing
// inside. Between hosts only: on one host path peer is the same without a server.
std::optional<PathTraffic> Traffic(const ExchangeShape& shape, const Topology& topology) {
  if (topology.num_hosts() == 1) return std::nullopt;
  const EvenLoad load(shape, topology);
  const bool exact = shape.reduction == Reduction::kExact;
  PathTraffic t{.num_transfers = exact ? 4.0 : 5.0,
                .num_messages = std::max(0.0, 2 * (load.ranks - 2) + (exact ? 2 : 3) * (load.hosts - 2))};
  const double back = exact ? load.outputs : load.host_sums;
  t.Add(load.host_rows, 0, load.host_rows * load.off_host);
  t.Add(back * load.off_host, 0, back * load.off_host);
  return t;
}

DeviceCapacity CapacityOf(const WorstCase& w) { return {w.tokens, static_cast<int>(w.top_k), w.num_ranks}; }

// On GPUs: rows and outputs for the largest exchange. On CPUs pages are taken when a plan needs them.
int64_t StartBytes(const WorstCase& w) {
  if (w.device == DeviceKind::kCpu) return 0;
  return DeviceTwoLevelLayout::For(CapacityOf(w), w.home_bytes, w.output_bytes).num_bytes;
}

// And where those lie that are pulled.
int64_t DeviceBytes(const WorstCase& w) {
  const int64_t pulled = w.rows_in + CapacityOf(w).recv_selections();
  return StartBytes(w) + pulled * static_cast<int64_t>(sizeof(char*));
}

// A rank that is alone on its host serves everybody, and all of a token's experts may be there.
int64_t MostBytes(const WorstCase& w) {
  const bool sums = w.reduction == Reduction::kNode;
  const int64_t served = w.rows_in * w.top_k;  // selections
  const int64_t returned = sums ? w.rows_in + w.rows_out : served;
  const int64_t kept = w.rows_in * w.home_bytes + (w.selections_in + (sums ? 0 : w.selections_out)) * w.output_bytes;
  const int64_t shared = (w.device == DeviceKind::kCpu ? kept : DeviceBytes(w)) +
                         2 * PublishedPlan::NumBytes(w.num_ranks, w.selections_in) + PeerFlags::kBytesPerRank +
                         8 * kPage;
  const int64_t weights = sums ? 4 * (w.selections_out + served) : 0;
  const int64_t indices = 8 * (w.rows_in + 1) + 8 * served + 4 * w.selections_out + 4;
  return w.tokens * w.home_bytes + (w.rows_out + w.rows_in) * w.row_bytes + shared + returned * w.output_bytes +
         weights + indices + w.IndexBytes();
}

// Ranks that compute on GPUs keep rows there, all others in the host's memory. Which it is has been agreed on at start.
absl::StatusOr<std::unique_ptr<PathMover>> Create(const PathContext& context) {
  const bool on_cpu = context.device.kind() == DeviceKind::kCpu;
  return CreateTwoLevelMover(context, on_cpu ? TwoLevelRows::kHostMemory : TwoLevelRows::kDeviceMemory);
}

}  // namespace

const PathInfo kTwoLevelPath = {ExchangePath::kTwoLevel, Create, Traffic, StartBytes, MostBytes};

}  // namespace tokenferry

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

int64_t MostBytes(const WorstCase& w) {
  const int64_t padding = 64 * (w.output_bytes + w.home_bytes);  // parts are multiples of 64 bytes and of a row
  const int64_t control = 1024 + 2 * w.num_ranks * static_cast<int64_t>(sizeof(PlanHeader));
  const int64_t arrays = 2 * (4 * w.rows_out + 8 * w.selections_out);
  return w.tokens * (2 * w.home_bytes + w.row_bytes) + w.selections_in * w.output_bytes + arrays + w.IndexBytes() +
         padding + control;
}

}  // namespace

const PathInfo kPeerPath = {ExchangePath::kPeer, CreatePeerMover, Traffic, MostBytes};

}  // namespace tokenferry

#include "comm/exchange/two_level/two_level_exchange.h"
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

// A rank that is alone on its host serves everybody, and all of a token's experts may be there.
int64_t MostBytes(const WorstCase& w) {
  const bool sums = w.reduction == Reduction::kNode;
  const int64_t served = w.rows_in * w.top_k;  // selections
  const int64_t returned = sums ? w.rows_in + w.rows_out : served;
  const int64_t shared = w.rows_in * w.home_bytes + (w.selections_in + (sums ? 0 : w.selections_out)) * w.output_bytes +
                         2 * PublishedPlan::NumBytes(w.num_ranks, w.selections_in) + PeerFlags::kBytesPerRank +
                         8 * kPage;
  const int64_t weights = sums ? 4 * (w.selections_out + served) : 0;
  const int64_t indices = 8 * (w.rows_in + 1) + 8 * served + 4 * w.selections_out + 4;
  return w.tokens * w.home_bytes + (w.rows_out + w.rows_in) * w.row_bytes + shared + returned * w.output_bytes +
         weights + indices + w.IndexBytes();
}

}  // namespace

const PathInfo kTwoLevelPath = {ExchangePath::kTwoLevel, CreateTwoLevelMover, Traffic, MostBytes};

}  // namespace tokenferry

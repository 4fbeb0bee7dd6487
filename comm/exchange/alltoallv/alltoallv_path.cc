#include "comm/exchange/alltoallv/alltoallv_exchange.h"

namespace tokenferry {
namespace {

// 4 transfers to R - 1 ranks; rows D_R H b, outputs o T K H.
std::optional<PathTraffic> Traffic(const ExchangeShape& shape, const Topology& topology) {
  const EvenLoad load(shape, topology);
  PathTraffic t{.num_transfers = 4, .num_messages = std::max(0.0, 4 * (load.ranks - 2))};
  t.Add(load.rank_rows, load.rank_rows * load.on_host, load.rank_rows * load.off_host);
  t.Add(load.outputs, load.outputs * load.on_host, load.outputs * load.off_host);
  return t;
}

// Buffers grow with what travels.
int64_t StartBytes(const WorstCase&) { return 0; }

int64_t MostBytes(const WorstCase& w) {
  return w.tokens * w.home_bytes + (w.rows_out + w.rows_in) * w.row_bytes + w.rows_in * w.home_bytes + w.ReturnBytes() +
         w.IndexBytes();
}

absl::StatusOr<std::unique_ptr<PathMover>> Create(const PathContext& context) { return CreateAllToAllVMover(context); }

}  // namespace

const PathInfo kAllToAllVPath = {ExchangePath::kAllToAllV, Create, Traffic, StartBytes, MostBytes};

}  // namespace tokenferry

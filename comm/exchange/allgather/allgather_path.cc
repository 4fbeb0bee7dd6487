#include <cmath>

#include "comm/exchange/allgather/allgather_exchange.h"

namespace tokenferry {
namespace {

// 3 ceil(log2 R) transfers to one rank, rows T H b (R - 1); and the combine of alltoallv.
std::optional<PathTraffic> Traffic(const ExchangeShape& shape, const Topology& topology) {
  const EvenLoad load(shape, topology);
  PathTraffic t{.num_transfers = 3 * std::ceil(std::log2(load.ranks)) + 1,
                .num_messages = std::max(0.0, load.ranks - 2)};
  const double all_rows = load.tokens * load.row * (load.ranks - 1),
               network_share = load.ranks > 1 ? load.off_host * load.ranks / (load.ranks - 1) : 0;
  t.Add(load.tokens * load.row, all_rows * (1 - network_share), all_rows * network_share);
  t.Add(load.outputs, load.outputs * load.on_host, load.outputs * load.off_host);
  return t;
}

// Buffers grow with what travels.
int64_t StartBytes(const WorstCase&) { return 0; }

int64_t MostBytes(const WorstCase& w) {
  return w.tokens * w.home_bytes + w.rows_in * (w.row_bytes + w.home_bytes) + w.ReturnBytes() + w.IndexBytes();
}

absl::StatusOr<std::unique_ptr<PathMover>> Create(const PathContext& context) { return CreateAllGatherMover(context); }

}  // namespace

const PathInfo kAllGatherPath = {ExchangePath::kAllGather, Create, Traffic, StartBytes, MostBytes};

}  // namespace tokenferry

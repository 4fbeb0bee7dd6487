#include "comm/exchange/path/path_costs.h"

#include <algorithm>
#include <cmath>

#include "comm/ops/row_codec_ops.h"

namespace tokenferry {

double ExpectedPairs(const ExchangeShape& shape, int num_groups) {
  return static_cast<double>(shape.tokens_per_rank) * num_groups *
         (1 - std::pow(1 - 1.0 / num_groups, static_cast<double>(shape.top_k)));
}

int64_t LargestHost(const Topology& topology) {
  size_t n = 0;
  for (const auto& host : topology.hosts) n = std::max(n, host.ranks.size());
  return static_cast<int64_t>(n);
}

EvenLoad::EvenLoad(const ExchangeShape& shape, const Topology& topology)
    : ranks(topology.num_ranks()),
      hosts(topology.num_hosts()),
      off_host((hosts - 1) / hosts),
      on_host((static_cast<double>(LargestHost(topology)) - 1) / ranks),
      tokens(static_cast<double>(shape.tokens_per_rank)),
      row(static_cast<double>(shape.hidden * shape.row_element_bytes)),
      out(static_cast<double>(shape.hidden * shape.out_element_bytes)),
      rank_rows(ExpectedPairs(shape, topology.num_ranks()) * row),
      host_rows(ExpectedPairs(shape, topology.num_hosts()) * row),
      outputs(tokens * shape.top_k * out),
      host_sums(ExpectedPairs(shape, topology.num_hosts()) * out) {}

WorstCase::WorstCase(const ExchangeOptions& options, const Placement& placement, int64_t num_tokens,
                     DeviceKind device_kind)
    : device(device_kind),
      num_ranks(placement.num_ranks()),
      top_k(options.max_top_k),
      reduction(options.reduction),
      is_quantised(IsQuantised(options.wire_dtype)),
      slots(0),
      tokens(num_tokens),
      row_bytes(RowBytes(options.wire_dtype, options.hidden)),
      home_bytes(RowBytes(options.resident_dtype(), options.hidden)),
      output_bytes(RowBytes(options.output_dtype, options.hidden)) {
  for (int r = 0; r < num_ranks; ++r) slots = std::max<int64_t>(slots, placement.num_local_slots(RankId(r)));
  rows_in = num_ranks * tokens;
  selections_in = rows_in * std::min(top_k, slots);
  rows_out = tokens * std::min<int64_t>(top_k, num_ranks);
  selections_out = tokens * top_k;
}

int64_t WorstCase::IndexBytes() const {
  return 4 * (rows_out + tokens + 3 * selections_in) + 8 * (slots + 1) + 8 * (tokens + 1) + 8 * selections_out;
}

}  // namespace tokenferry

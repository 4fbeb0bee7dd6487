#include "comm/exchange/path/exchange_stats.h"

#include "comm/ops/row_codec_ops.h"

namespace tokenferry {

ExchangeStats ExchangeStats::For(const ExchangeOptions& options, int num_ranks) {
  ExchangeStats stats;
  stats.path = options.path;
  stats.row_bytes = RowBytes(options.wire_dtype, options.hidden);
  stats.output_bytes = RowBytes(options.output_dtype, options.hidden);
  stats.wait_seconds_per_rank.resize(num_ranks);
  stats.dispatch_rows_per_rank.resize(num_ranks);
  stats.dispatch_bytes_per_rank.resize(num_ranks);
  stats.combine_bytes_per_rank.resize(num_ranks);
  return stats;
}

ExchangeStats& ExchangeStats::operator+=(const ExchangeStats& other) {
  const auto add = [](auto& sums, const auto& terms) {
    for (size_t r = 0; r < sums.size(); ++r) sums[r] += terms[r];
  };
  num_exchanges += other.num_exchanges;
  num_tokens += other.num_tokens;
  num_selections += other.num_selections;
  add(dispatch_rows_per_rank, other.dispatch_rows_per_rank);
  add(dispatch_bytes_per_rank, other.dispatch_bytes_per_rank);
  add(combine_bytes_per_rank, other.combine_bytes_per_rank);
  add(wait_seconds_per_rank, other.wait_seconds_per_rank);
  bases += other.bases;
  peak_peer_bytes += other.peak_peer_bytes;
  plan_seconds += other.plan_seconds;
  dispatch_seconds += other.dispatch_seconds;
  combine_seconds += other.combine_seconds;
  return *this;
}

}  // namespace tokenferry

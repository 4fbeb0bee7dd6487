// What an exchange counts.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/exchange/path/options.h"
#include "comm/plan/exchange_traffic.h"

namespace tokenferry {

// Since creation, this rank. Rows and bytes count what leaves for each rank, this one included.
struct ExchangeStats {
  ExchangePath path = ExchangePath::kAllToAllV;
  int64_t num_exchanges = 0;                     // dispatches with their combines
  int64_t num_tokens = 0;                        // of home, with at least one selection
  int64_t num_selections = 0;                    // (token, expert) pairs of them
  std::vector<int64_t> dispatch_rows_per_rank;   // [R] rows sent, one per (token, rank)
  std::vector<int64_t> dispatch_bytes_per_rank;  // [R]
  std::vector<int64_t> combine_bytes_per_rank;   // [R] expert outputs sent back
  // What other ways of sending would have needed for these tokens, and the bytes of a row and of an output as they
  // travel here. bench/README.md defines the bases.
  RowBases bases;
  int64_t row_bytes = 0, output_bytes = 0;
  // [R] Seconds this rank waited in exchanges for each rank. Every wait (one transfer, or one kind of flag) counts
  // whole for the rank that came last, from when this rank began to wait until then; row `rank` of a matrix [R, R].
  // It names the next cause: on a path that passes on (allgather, two_level) that rank may have waited for another.
  std::vector<double> wait_seconds_per_rank;
  int64_t peak_peer_bytes = 0;  // of this rank's parts of memory that ranks share on the host; all else is the device's
  double plan_seconds = 0, dispatch_seconds = 0, combine_seconds = 0;

  // Zeros, of rows and outputs as `options` has them.
  static ExchangeStats For(const ExchangeOptions& options, int num_ranks);
  ExchangeStats& operator+=(const ExchangeStats& other);  // of the same ranks and dtypes; keeps its path
};

}  // namespace tokenferry

// What lies where in a rank's part of the memory that ranks share. A value, the same on every rank.
#pragma once

#include <cstdint>

#include "core/status.h"

namespace tokenferry {

// The largest exchange a part has room for; of any rank.
struct PeerCapacity {
  int64_t tokens = 0;
  int64_t send_rows = 0;        // (token, rank) pairs
  int64_t send_selections = 0;  // of its tokens
  int64_t recv_selections = 0;  // of its experts

  // What memory is made for before anything is known: outputs for as many selections as a rank's own tokens have, which
  // is what a balanced load needs.
  static PeerCapacity AtStart(int64_t tokens, int64_t top_k, int num_ranks);
  bool Holds(const PeerCapacity& needed) const;
  // `needed`, and a quarter more than before of what grows, so that sizes that creep up do not grow it each time.
  PeerCapacity GrownTo(const PeerCapacity& needed) const;
};

// Byte offsets within a part of two memories, multiples of 64. The size of an output divides bytes_per_rank: so the
// outputs of all ranks are one matrix with a common stride, output i of rank r being its row r * outputs_per_rank + i.
// Token rows, [tokens, H], have a memory of their own, in which they are one matrix in the same way.
struct PeerLayout {
  int64_t row_token[2] = {};   // [send_rows] int32 each; of even and of odd exchanges
  int64_t selections[2] = {};  // [send_selections] WireSelection each
  int64_t return_idx = 0;      // [recv_selections] int32
  int64_t outputs = 0;         // [recv_selections, H]
  int64_t bytes_per_rank = 0;
  int64_t outputs_per_rank = 0;
  int64_t row_bytes_per_rank = 0;  // of the memory of rows
  int64_t rows_per_rank = 0;
};

// ResourceExhausted when indices of rows over all ranks would not fit 31 bits.
absl::StatusOr<PeerLayout> MakePeerLayout(const PeerCapacity& capacity, int num_ranks, int64_t row_bytes,
                                          int64_t out_bytes);

}  // namespace tokenferry

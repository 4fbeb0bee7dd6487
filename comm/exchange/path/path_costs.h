// What the paths tell about themselves before they run: what they are expected to send, which the cost model
// (comm/tuning/cost_model.h) turns into time, and the most memory that they may need.
#pragma once

#include <cstdint>

#include "comm/exchange/path/options.h"
#include "comm/transport/topology.h"
#include "core/device/device.h"
#include "core/moe/placement.h"

namespace tokenferry {

// A typical exchange: every rank has as many tokens, and experts are chosen evenly.
struct ExchangeShape {
  int64_t tokens_per_rank = 0;
  int top_k = 0;
  int64_t hidden = 0;
  int64_t row_element_bytes = 4, out_element_bytes = 4;
  Reduction reduction = Reduction::kExact;
};

// Of T tokens with K experts each, drawn evenly over M groups, the (token, group) pairs are T M (1 - (1 - 1/M)^K).
double ExpectedPairs(const ExchangeShape& shape, int num_groups);

// One rank's part of one exchange on a path: what it sends, which the prediction is made of.
struct PathTraffic {
  double num_transfers = 0;  // one after another
  double num_messages = 0;   // beyond the first of each transfer
  double self_bytes = 0;     // copied in the rank's memory: packing, forwarding
  double host_bytes = 0;     // to other ranks of its host
  double network_bytes = 0;  // to other hosts

  void Add(double self, double host, double network) {
    self_bytes += self;
    host_bytes += host;
    network_bytes += network;
  }
};

// The terms of the paths' formulas: R ranks, L of them on the fullest host, N hosts.
struct EvenLoad {
  EvenLoad(const ExchangeShape& shape, const Topology& topology);

  double ranks, hosts;
  double off_host;   // (N - 1) / N, the share of destinations on other hosts
  double on_host;    // (L - 1) / R, the share of other ranks of this host
  double tokens;     // T
  double row, out;   // bytes of a row and of an expert output
  double rank_rows;  // bytes of rows, one per (token, rank)
  double host_rows;  // bytes of rows, one per (token, host)
  double outputs;    // bytes of all selections' outputs
  double host_sums;  // bytes of outputs, one per (token, host)
};
int64_t LargestHost(const Topology& topology);  // L

// The most that can come to one rank: every token of every rank, with as many of its experts as there are slots. All
// counts are of one rank, R ranks of T tokens with top-k K.
struct WorstCase {
  WorstCase(const ExchangeOptions& options, const Placement& placement, int64_t num_tokens,
            DeviceKind device = DeviceKind::kCpu);

  int64_t IndexBytes() const;  // of the arrays that every path uploads
  // Outputs where they are computed, in the order of their messages, and back at home.
  int64_t ReturnBytes() const { return (2 * selections_in + selections_out) * output_bytes; }

  DeviceKind device;  // what ranks compute on
  int num_ranks;
  int64_t top_k;
  Reduction reduction;
  bool is_quantised;                 // rows, while they travel
  int64_t slots;                     // of the rank that has the most
  int64_t tokens;                    // T
  int64_t rows_in, selections_in;    // R T; R T min(K, slots)
  int64_t rows_out, selections_out;  // T min(K, R); T K
  int64_t row_bytes;                 // as rows travel
  int64_t home_bytes;                // as home and experts have them
  int64_t output_bytes;              // of an expert output
};

}  // namespace tokenferry

#include "comm/tuning/exchange_budget.h"

#include <algorithm>

#include "comm/exchange/two_level/two_level_plan.h"
#include "comm/ops/row_codec_ops.h"
#include "comm/peer/peer_flags.h"
#include "comm/plan/exchange_planner.h"

namespace tokenferry {
namespace {

// The worst case on one rank: every token of every rank comes here, with as many of its experts as there are slots.
struct WorstCase {
  int64_t top_k;
  bool sums_by_host;
  int64_t tokens, rows_in, selections_in, rows_out, selections_out, slots;
  int64_t row_bytes;     // as rows travel
  int64_t home_bytes;    // as home and experts have them
  int64_t output_bytes;  // of an expert output

  WorstCase(const ExchangeOptions& options, const Placement& placement, int64_t num_tokens)
      : top_k(options.max_top_k), sums_by_host(options.reduction == Reduction::kNode), tokens(num_tokens) {
    const int64_t num_ranks = placement.num_ranks();
    slots = 0;
    for (int r = 0; r < num_ranks; ++r) slots = std::max<int64_t>(slots, placement.num_local_slots(RankId(r)));
    rows_in = num_ranks * tokens;
    selections_in = rows_in * std::min(top_k, slots);
    rows_out = tokens * std::min(top_k, num_ranks);
    selections_out = tokens * top_k;
    row_bytes = RowBytes(options.wire_dtype, options.hidden);
    home_bytes = RowBytes(options.resident_dtype(), options.hidden);
    output_bytes = RowBytes(options.output_dtype, options.hidden);
  }

  int64_t IndexBytes() const {
    return 4 * (rows_out + tokens + 3 * selections_in) + 8 * (slots + 1) + 8 * (tokens + 1) + 8 * selections_out;
  }
  // Outputs where they are computed, in the order of their messages, and back at home.
  int64_t ReturnBytes() const { return (2 * selections_in + selections_out) * output_bytes; }

  int64_t Peer(int num_ranks) const {
    const int64_t padding = 64 * (output_bytes + home_bytes);  // parts are multiples of 64 bytes and of a row
    const int64_t control = 1024 + 2 * num_ranks * static_cast<int64_t>(sizeof(PlanHeader));
    const int64_t arrays = 2 * (4 * rows_out + 8 * selections_out);
    return tokens * (2 * home_bytes + row_bytes) + selections_in * output_bytes + arrays + IndexBytes() + padding +
           control;
  }
  int64_t AllToAllV() const {
    return tokens * home_bytes + (rows_out + rows_in) * row_bytes + rows_in * home_bytes + ReturnBytes() + IndexBytes();
  }
  int64_t AllGather() const {
    return tokens * home_bytes + rows_in * (row_bytes + home_bytes) + ReturnBytes() + IndexBytes();
  }
  // A rank that is alone on its host serves everybody, and all of a token's experts may be there.
  int64_t TwoLevel(int num_ranks) const {
    const int64_t served = rows_in * top_k;  // selections
    const int64_t returned = sums_by_host ? rows_in + rows_out : served;
    const int64_t shared = rows_in * home_bytes + (selections_in + (sums_by_host ? 0 : selections_out)) * output_bytes +
                           2 * ToldPlan::NumBytes(num_ranks, selections_in) + PeerFlags::kBytesPerRank + 8 * kPage;
    const int64_t weights = sums_by_host ? 4 * (selections_out + served) : 0;
    const int64_t indices = 8 * (rows_in + 1) + 8 * served + 4 * selections_out + 4;
    return tokens * home_bytes + (rows_out + rows_in) * row_bytes + shared + returned * output_bytes + weights +
           indices + IndexBytes();
  }
};

int64_t Sum(const WorstCase& w, ExchangePath path, int num_ranks) {
  switch (path) {
    case ExchangePath::kPeer:
      return w.Peer(num_ranks);
    case ExchangePath::kAllToAllV:
      return w.AllToAllV();
    case ExchangePath::kAllGather:
      return w.AllGather();
    case ExchangePath::kTwoLevel:
      return w.TwoLevel(num_ranks);
    default:
      return std::max({w.Peer(num_ranks), w.AllToAllV(), w.AllGather()});
  }
}

}  // namespace

absl::StatusOr<int64_t> MostExchangeBytes(const ExchangeOptions& options, const Placement& placement,
                                          int64_t num_tokens) {
  // Buffers that grow take a quarter more than before, if that is more than they need.
  return Sum(WorstCase(options, placement, num_tokens), options.path, placement.num_ranks()) / 4 * 5;
}

absl::StatusOr<int64_t> TokensWithin(int64_t budget, const ExchangeOptions& options, const Placement& placement) {
  TF_ASSIGN_OR_RETURN(const int64_t least, MostExchangeBytes(options, placement, 1));
  if (budget < least) {
    return absl::InvalidArgumentError(absl::StrCat("exchange: a budget of ", budget, " bytes is less than the ", least,
                                                   " that one token per rank can need on path ",
                                                   ExchangePathName(options.path)));
  }
  int64_t fits = 1, too_many = std::max<int64_t>(1, options.max_tokens) + 1;
  while (too_many - fits > 1) {
    const int64_t tokens = fits + (too_many - fits) / 2;
    TF_ASSIGN_OR_RETURN(const int64_t bytes, MostExchangeBytes(options, placement, tokens));
    (bytes <= budget ? fits : too_many) = tokens;
  }
  return fits;
}

}  // namespace tokenferry

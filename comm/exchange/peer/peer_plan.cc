#include "comm/exchange/peer/peer_plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace tokenferry {

int64_t PeerHeaders::FirstRow(int src, int dst) const {
  int64_t begin = 0;
  for (int r = 0; r < dst; ++r) begin += of(src, r).num_rows;
  return begin;
}

int64_t PeerHeaders::FirstSelection(int src, int dst) const {
  int64_t begin = 0;
  for (int r = 0; r < dst; ++r) begin += of(src, r).num_selections;
  return begin;
}

int64_t PeerHeaders::FirstArrival(int src, int dst) const {
  int64_t begin = 0;
  for (int r = 0; r < src; ++r) begin += of(r, dst).num_selections;
  return begin;
}

absl::StatusOr<PeerCapacity> NeededCapacity(const PeerHeaders& headers) {
  const int num_ranks = headers.num_ranks();
  PeerCapacity needed;
  for (int a = 0; a < num_ranks; ++a) {
    const auto is_count = [](int64_t n) { return n >= 0 && n <= kMaxItems; };
    const auto bad = [a](int64_t value) {
      return absl::DataLossError(absl::StrCat("plan of rank ", a, ": count ", value));
    };
    if (!is_count(headers.num_tokens[a])) return bad(headers.num_tokens[a]);
    for (int b = 0; b < num_ranks; ++b) {
      if (!is_count(headers.of(a, b).num_rows)) return bad(headers.of(a, b).num_rows);
      if (!is_count(headers.of(a, b).num_selections)) return bad(headers.of(a, b).num_selections);
    }
  }
  for (int r = 0; r < num_ranks; ++r) {
    needed.tokens = std::max(needed.tokens, headers.num_tokens[r]);
    needed.send_rows = std::max(needed.send_rows, headers.FirstRow(r, num_ranks));
    needed.send_selections = std::max(needed.send_selections, headers.FirstSelection(r, num_ranks));
    needed.recv_selections = std::max(needed.recv_selections, headers.FirstArrival(num_ranks, r));
  }
  return needed;
}

absl::Status LocateRows(const PeerHeaders& headers, absl::Span<const absl::Span<const int32_t>> row_tokens,
                        const RecvPlan& recv, int64_t rows_per_rank, std::vector<int32_t>& scratch,
                        std::vector<int32_t>& location) {
  scratch.clear();  // of each row that arrives
  for (int src = 0; src < headers.num_ranks(); ++src) {
    for (size_t i = 0; i < row_tokens[src].size(); ++i) {
      const int32_t token = row_tokens[src][i];  // once: it may be written while it is read, by a rank that is broken
      if (token < 0 || token >= headers.num_tokens[src]) {
        return absl::DataLossError(
            absl::StrCat("plan from rank ", src, ": row ", i, " is token ", token, " of ", headers.num_tokens[src]));
      }
      scratch.push_back(static_cast<int32_t>(src * rows_per_rank + token));
    }
  }
  location.resize(recv.row_idx.size());
  for (size_t i = 0; i < recv.row_idx.size(); ++i) location[i] = scratch[recv.row_idx[i]];
  return absl::OkStatus();
}

absl::Status LocateOutputs(const PeerHeaders& headers, absl::Span<const absl::Span<const int32_t>> return_idx,
                           const SendPlan& send, int64_t outputs_per_rank, std::vector<int32_t>& scratch,
                           std::vector<int32_t>& location) {
  scratch.resize(send.selections.size());  // of each selection
  for (int r = 0; r < headers.num_ranks(); ++r) {
    const int64_t num_outputs = headers.FirstArrival(headers.num_ranks(), r), first = send.selection_offsets[r];
    for (size_t i = 0; i < return_idx[r].size(); ++i) {
      const int32_t idx = return_idx[r][i];
      if (idx < 0 || idx >= num_outputs) {
        return absl::DataLossError(
            absl::StrCat("rank ", r, " says that selection ", i, " is its output ", idx, " of ", num_outputs));
      }
      scratch[first + static_cast<int64_t>(i)] = static_cast<int32_t>(r * outputs_per_rank + idx);
    }
  }
  location.resize(send.combine_selection.size());
  for (size_t i = 0; i < location.size(); ++i) location[i] = scratch[send.combine_selection[i]];
  return absl::OkStatus();
}

}  // namespace tokenferry

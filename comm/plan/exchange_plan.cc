#include "comm/plan/exchange_plan.h"

#include "core/check.h"

namespace tokenferry {
namespace {

absl::Status ValidateRouting(const HostRouting& routing, const Placement& placement) {
  if (routing.num_tokens < 0 || routing.top_k < 0 ||
      (routing.top_k > 0 && routing.num_tokens > kMaxItems / routing.top_k)) {
    return absl::InvalidArgumentError(absl::StrCat("routing of ", routing.num_tokens, " tokens with top-",
                                                   routing.top_k, " is too large for one exchange"));
  }
  const int64_t num_entries = routing.num_tokens * routing.top_k;
  TF_CHECK_EQ(static_cast<int64_t>(routing.expert_idx.size()), num_entries);
  for (int64_t i = 0; i < num_entries; ++i) {
    const int32_t expert = routing.expert_idx[i];
    if (expert >= -1 && expert < placement.num_experts()) continue;
    return absl::InvalidArgumentError(absl::StrCat("routing: token ", i / routing.top_k, " selects expert ", expert,
                                                   " at position ", i % routing.top_k, ", but the experts are 0 to ",
                                                   placement.num_experts() - 1, " (or -1 for none)"));
  }
  if (!routing.location.empty()) TF_CHECK_EQ(static_cast<int64_t>(routing.location.size()), num_entries);
  for (size_t i = 0; i < routing.location.size(); ++i) {
    const int32_t expert = routing.expert_idx[i], location = routing.location[i];
    if (expert < 0 || (location >= -1 && location < static_cast<int64_t>(placement.locations(ExpertId(expert)).size())))
      continue;
    return absl::InvalidArgumentError(absl::StrCat("routing: token ", i / routing.top_k, " wants location ", location,
                                                   " of expert ", expert, ", which has ",
                                                   placement.locations(ExpertId(expert)).size()));
  }
  return absl::OkStatus();
}

// Puts the combine entries of one token, [begin, end), in increasing logical expert index; equal experts stay by k.
void SortCombine(SendPlan& plan, int64_t begin, int64_t end) {
  for (int64_t i = begin + 1; i < end; ++i) {  // insertion: there are top-k of them
    const int32_t selection = plan.combine_selection[i], k = plan.combine_k[i];
    int64_t j = i;
    for (; j > begin; --j) {
      const int32_t before = plan.combine_selection[j - 1];
      if (plan.selection_expert[before] <= plan.selection_expert[selection]) break;
      plan.combine_selection[j] = before;
      plan.combine_k[j] = plan.combine_k[j - 1];
    }
    plan.combine_selection[j] = selection;
    plan.combine_k[j] = k;
  }
}

// One peer's message: rows in order from 0, each with at least one selection, slots that exist.
absl::Status ValidateMessage(int rank, int64_t num_rows, absl::Span<const WireSelection> selections, int num_slots,
                             RowsFor rows) {
  int64_t last_row = -1;
  for (size_t i = 0; i < selections.size(); ++i) {
    const WireSelection s = selections[i];
    const bool skips = rows == RowsFor::kThisRank && s.row_idx > last_row + 1;
    if (s.row_idx < 0 || s.row_idx < last_row || skips || s.row_idx >= num_rows) {
      return absl::DataLossError(absl::StrCat("plan from rank ", rank, ": its selection ", i, " names row ", s.row_idx,
                                              " after row ", last_row, ", of ", num_rows, " rows"));
    }
    if (s.slot < 0 || s.slot >= num_slots) {
      return absl::DataLossError(absl::StrCat("plan from rank ", rank, ": its selection ", i, " names slot ", s.slot,
                                              ", but this rank has ", num_slots));
    }
    last_row = s.row_idx;
  }
  if (last_row + 1 == num_rows || rows == RowsFor::kThisHost) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("plan from rank ", rank, ": ", num_rows, " rows announced, but selections for ", last_row + 1));
}

}  // namespace

void PlanBuilder::CountPerRank(const HostRouting& routing, const Placement& placement, SendPlan& plan) {
  const int num_ranks = placement.num_ranks();
  plan.row_offsets.assign(num_ranks + 1, 0);
  plan.selection_offsets.assign(num_ranks + 1, 0);
  last_token_.assign(num_ranks, -1);
  location_.resize(routing.expert_idx.size());
  for (int64_t t = 0, i = 0; t < routing.num_tokens; ++t) {
    for (int k = 0; k < routing.top_k; ++k, ++i) {
      if (routing.expert_idx[i] < 0) continue;
      location_[i] = placement.location(LocationOf(routing, placement, t, i));
      const int r = location_[i].rank.value;
      ++plan.selection_offsets[r + 1];
      if (last_token_[r] == t) continue;
      last_token_[r] = t;
      ++plan.row_offsets[r + 1];
    }
  }
  for (int r = 0; r < num_ranks; ++r) {
    plan.row_offsets[r + 1] += plan.row_offsets[r];
    plan.selection_offsets[r + 1] += plan.selection_offsets[r];
  }
}

void PlanBuilder::Fill(const HostRouting& routing, SendPlan& plan) {
  const int64_t n = plan.selection_offsets.back();
  plan.row_token.resize(plan.row_offsets.back());
  plan.selections.resize(n);
  plan.selection_expert.resize(n);
  plan.selection_k.resize(n);
  plan.combine_offsets.resize(routing.num_tokens + 1);
  plan.combine_offsets[0] = 0;
  plan.combine_selection.resize(n);
  plan.combine_k.resize(n);
  next_row_.assign(plan.row_offsets.begin(), plan.row_offsets.end() - 1);
  next_selection_.assign(plan.selection_offsets.begin(), plan.selection_offsets.end() - 1);
  last_token_.assign(next_row_.size(), -1);
  int64_t end = 0;
  for (int64_t t = 0, i = 0; t < routing.num_tokens; ++t) {
    for (int k = 0; k < routing.top_k; ++k, ++i) {
      if (routing.expert_idx[i] < 0) continue;
      const int r = location_[i].rank.value;
      if (last_token_[r] != t) {
        last_token_[r] = t;
        plan.row_token[next_row_[r]++] = static_cast<int32_t>(t);
      }
      const int64_t s = next_selection_[r]++;
      plan.selections[s] = {static_cast<int32_t>(next_row_[r] - 1 - plan.row_offsets[r]), location_[i].slot.value};
      plan.selection_expert[s] = routing.expert_idx[i];
      plan.selection_k[s] = k;
      plan.combine_selection[end] = static_cast<int32_t>(s);
      plan.combine_k[end++] = k;
    }
    SortCombine(plan, plan.combine_offsets[t], end);
    plan.combine_offsets[t + 1] = end;
  }
}

int32_t LocationOf(const HostRouting& routing, const Placement& placement, int64_t t, int64_t i) {
  const ExpertId expert(routing.expert_idx[i]);
  const bool is_given = !routing.location.empty() && routing.location[i] >= 0;
  return placement.first_location(expert) +
         (is_given ? routing.location[i] : placement.ChooseIndex(expert, routing.rank, t));
}

absl::Status PlanBuilder::BuildSend(const HostRouting& routing, const Placement& placement, SendPlan& plan) {
  TF_RETURN_IF_ERROR(ValidateRouting(routing, placement));
  plan.num_tokens = routing.num_tokens;
  CountPerRank(routing, placement, plan);
  Fill(routing, plan);
  return absl::OkStatus();
}

absl::Status ValidateCounts(absl::Span<const int64_t> row_counts, absl::Span<const int64_t> selection_counts,
                            RowsFor rows_for) {
  int64_t num_rows = 0, num_selections = 0;
  for (size_t r = 0; r < row_counts.size(); ++r) {
    const int64_t rows = row_counts[r], selections = selection_counts[r];
    const bool too_few = rows_for == RowsFor::kThisRank && selections < rows;
    if (rows < 0 || rows > kMaxItems || too_few || selections < 0 || (rows == 0 && selections > 0) ||
        selections > kMaxItems) {
      return absl::DataLossError(
          absl::StrCat("plan from rank ", r, ": announces ", rows, " rows with ", selections, " selections"));
    }
    num_rows += rows;
    num_selections += selections;
    if (num_rows > kMaxItems || num_selections > kMaxItems) {
      return absl::ResourceExhaustedError(absl::StrCat("plan: ranks 0 to ", r, " send this rank ", num_rows,
                                                       " rows and ", num_selections, " selections; one exchange takes ",
                                                       kMaxItems));
    }
  }
  return absl::OkStatus();
}

absl::Status PlanBuilder::BuildRecv(absl::Span<const int64_t> row_counts, absl::Span<const int64_t> selection_counts,
                                    absl::Span<const WireSelection> selections, int num_local_slots, RecvPlan& plan,
                                    RowsFor rows) {
  TF_CHECK_EQ(row_counts.size(), selection_counts.size());
  TF_RETURN_IF_ERROR(ValidateCounts(row_counts, selection_counts, rows));
  const size_t num_ranks = row_counts.size();
  plan.row_offsets.assign(num_ranks + 1, 0);
  plan.selection_offsets.assign(num_ranks + 1, 0);
  plan.slot_offsets.assign(num_local_slots + 1, 0);
  for (size_t r = 0; r < num_ranks; ++r) {
    plan.row_offsets[r + 1] = plan.row_offsets[r] + row_counts[r];
    plan.selection_offsets[r + 1] = plan.selection_offsets[r] + selection_counts[r];
  }
  TF_CHECK_EQ(static_cast<int64_t>(selections.size()), plan.selection_offsets.back());
  for (size_t r = 0; r < num_ranks; ++r) {
    const auto message = selections.subspan(plan.selection_offsets[r], selection_counts[r]);
    TF_RETURN_IF_ERROR(ValidateMessage(static_cast<int>(r), row_counts[r], message, num_local_slots, rows));
    for (const WireSelection s : message) ++plan.slot_offsets[s.slot + 1];
  }
  for (int s = 0; s < num_local_slots; ++s) plan.slot_offsets[s + 1] += plan.slot_offsets[s];
  // A stable counting sort by slot: arrival order is (source rank, token index).
  plan.row_idx.resize(selections.size());
  plan.return_selection.resize(selections.size());
  next_selection_.assign(plan.slot_offsets.begin(), plan.slot_offsets.end() - 1);
  for (size_t r = 0; r < num_ranks; ++r) {
    for (int64_t i = plan.selection_offsets[r]; i < plan.selection_offsets[r + 1]; ++i) {
      const int64_t at_expert = next_selection_[selections[i].slot]++;
      plan.row_idx[at_expert] = static_cast<int32_t>(plan.row_offsets[r] + selections[i].row_idx);
      plan.return_selection[i] = static_cast<int32_t>(at_expert);
    }
  }
  return absl::OkStatus();
}

std::string ExchangePlan::ToString() const {
  std::string out =
      absl::StrCat("exchange plan of rank ", rank.value, " of ", num_ranks(), ": ", send.num_tokens, " tokens, sends ",
                   num_send_rows(), " rows with ", num_send_selections(), " selections, receives ", num_recv_rows(),
                   " rows with ", num_recv_selections(), " selections for ", recv.slot_offsets.size() - 1, " slots\n");
  const auto count = [](const std::vector<int64_t>& offsets, int r) { return offsets[r + 1] - offsets[r]; };
  for (int r = 0; r < num_ranks(); ++r) {
    absl::StrAppend(&out, "  rank ", r, ": to ", count(send.row_offsets, r), " rows, ",
                    count(send.selection_offsets, r), " selections; from ", count(recv.row_offsets, r), " rows, ",
                    count(recv.selection_offsets, r), " selections\n");
  }
  return out;
}

}  // namespace tokenferry

#include "comm/plan/device_plan.h"

#include <algorithm>

#include "core/device/cuda_launcher.h"

namespace tokenferry {
namespace {

void Report(PlanFault* fault, const PlanFault& found) {
  if (fault != nullptr && fault->kind == PlanFault::kNone) *fault = found;
}

void Add(int64_t* counter, int64_t n) {
  if (counter != nullptr) *counter += n;
}

// The location of each selection, or -1.
std::vector<int32_t> LocationsOf(const PlanSendArgs& a) {
  const int64_t num_cols = a.expert_idx.cols;
  std::vector<int32_t> locations(a.expert_idx.rows * num_cols, -1);
  for (int64_t i = 0; i < static_cast<int64_t>(locations.size()); ++i) {
    const int64_t t = i / num_cols;
    const auto k = static_cast<int32_t>(i % num_cols);
    const int32_t expert = a.expert_idx.row(t)[k];
    if (expert == -1) continue;
    if (expert < 0 || expert >= a.placement.num_experts) {
      Report(a.fault, {PlanFault::kExpert, k, t, expert});
      continue;
    }
    const int32_t location = a.location.data == nullptr ? -1 : a.location.row(t)[k];
    const int32_t first = a.placement.first_location[expert], first_choice = a.placement.first_choice[expert];
    if (location < -1 || location >= a.placement.first_location[expert + 1] - first) {
      Report(a.fault, {PlanFault::kLocation, k, t, location});
      continue;
    }
    const int64_t num_choices = a.placement.first_choice[expert + 1] - first_choice;
    locations[i] = location >= 0 ? first + location : a.placement.choice[first_choice + t % num_choices];
  }
  return locations;
}

void PlanSendReference(const PlanSendArgs& a) {
  const int64_t num_tokens = a.expert_idx.rows, num_cols = a.expert_idx.cols;
  const int32_t num_ranks = a.placement.num_ranks;
  const SendPlanArrays& plan = a.plan;
  const std::vector<int32_t> locations = LocationsOf(a);
  const auto rank_of = [&](int64_t i) { return a.placement.locations[locations[i]].rank; };
  // Whether selection i is its token's first one of its rank.
  const auto opens_row = [&](int64_t i) {
    for (int64_t before = i / num_cols * num_cols; before < i; ++before) {
      if (locations[before] >= 0 && rank_of(before) == rank_of(i)) return false;
    }
    return true;
  };
  std::fill_n(plan.row_offsets, num_ranks + 1, 0);
  std::fill_n(plan.selection_offsets, num_ranks + 1, 0);
  for (int64_t i = 0; i < static_cast<int64_t>(locations.size()); ++i) {
    if (locations[i] < 0) continue;
    ++plan.selection_offsets[rank_of(i) + 1];
    plan.row_offsets[rank_of(i) + 1] += opens_row(i) ? 1 : 0;
  }
  for (int32_t r = 0; r < num_ranks; ++r) {
    if (a.counters.rows_per_rank != nullptr) a.counters.rows_per_rank[r] += plan.row_offsets[r + 1];
    plan.row_offsets[r + 1] += plan.row_offsets[r];
    plan.selection_offsets[r + 1] += plan.selection_offsets[r];
  }
  std::vector<int64_t> next_row(plan.row_offsets, plan.row_offsets + num_ranks);
  std::vector<int64_t> next_selection(plan.selection_offsets, plan.selection_offsets + num_ranks);
  plan.combine_offsets[0] = 0;
  int64_t num_tokens_with_any = 0;
  for (int64_t t = 0; t < num_tokens; ++t) {
    std::vector<std::pair<int32_t, int32_t>> terms;  // expert, k: sorted so, equal experts by k
    std::vector<int64_t> selection_of_k(num_cols);
    for (int64_t k = 0, i = t * num_cols; k < num_cols; ++k, ++i) {
      if (locations[i] < 0) continue;
      const int32_t r = rank_of(i), expert = a.expert_idx.row(t)[k];
      if (opens_row(i)) plan.row_token[next_row[r]++] = static_cast<int32_t>(t);
      const int64_t s = selection_of_k[k] = next_selection[r]++;
      plan.selections[s] = {static_cast<int32_t>(next_row[r] - 1 - plan.row_offsets[r]),
                            a.placement.locations[locations[i]].slot};
      if (plan.selection_expert != nullptr) plan.selection_expert[s] = expert;
      if (plan.selection_k != nullptr) plan.selection_k[s] = static_cast<int32_t>(k);
      terms.emplace_back(expert, static_cast<int32_t>(k));
    }
    std::sort(terms.begin(), terms.end());
    int64_t at = plan.combine_offsets[t];
    for (const auto& [expert, k] : terms) {
      plan.combine_selection[at] = static_cast<int32_t>(selection_of_k[k]);
      plan.combine_k[at++] = k;
    }
    plan.combine_offsets[t + 1] = at;
    num_tokens_with_any += terms.empty() ? 0 : 1;
  }
  Add(a.counters.num_exchanges, 1);
  Add(a.counters.num_tokens, num_tokens_with_any);
  Add(a.counters.num_selections, plan.combine_offsets[num_tokens]);
}

void PlanRecvReference(const PlanRecvArgs& a) {
  const RecvPlanArrays& plan = a.plan;
  const bool none = a.nothing_came != nullptr && *a.nothing_came != 0;
  plan.row_offsets[0] = plan.selection_offsets[0] = 0;
  for (int32_t r = 0; r < a.num_ranks; ++r) {
    const SendPlanSource& s = a.sources[r];
    int64_t rows = none ? 0 : s.row_offsets[a.rank + 1] - s.row_offsets[a.rank];
    int64_t selections = none ? 0 : s.selection_offsets[a.rank + 1] - s.selection_offsets[a.rank];
    if (rows < 0 || selections < rows || (rows == 0 && selections > 0) || rows > a.max_rows - plan.row_offsets[r] ||
        selections > a.max_selections - plan.selection_offsets[r]) {
      Report(a.fault, {PlanFault::kCounts, 0, r, selections});
      rows = selections = 0;
    }
    plan.row_offsets[r + 1] = plan.row_offsets[r] + rows;
    plan.selection_offsets[r + 1] = plan.selection_offsets[r] + selections;
    if (a.counters.returned_per_rank != nullptr) a.counters.returned_per_rank[r] += selections;
  }
  std::fill_n(plan.slot_offsets, a.num_slots + 1, 0);
  // Twice over all arrivals: they are counted, then placed.
  const auto for_all = [&](auto place) {
    for (int32_t r = 0; r < a.num_ranks; ++r) {
      const SendPlanSource& s = a.sources[r];
      const int64_t num_rows = plan.row_offsets[r + 1] - plan.row_offsets[r];
      for (int64_t j = plan.selection_offsets[r]; j < plan.selection_offsets[r + 1]; ++j) {
        const WireSelection wire = s.selections[s.selection_offsets[a.rank] + j - plan.selection_offsets[r]];
        if (wire.slot < 0 || wire.slot >= a.num_slots || wire.row_idx < 0 || wire.row_idx >= num_rows) {
          Report(a.fault, {PlanFault::kSlot, 0, r, wire.slot});
          plan.return_selection[j] = 0;
          continue;
        }
        place(j, wire.slot, static_cast<int32_t>(plan.row_offsets[r] + wire.row_idx));
      }
    }
  };
  for_all([&](int64_t, int32_t slot, int32_t) { ++plan.slot_offsets[slot + 1]; });
  for (int32_t s = 0; s < a.num_slots; ++s) plan.slot_offsets[s + 1] += plan.slot_offsets[s];
  std::vector<int64_t> next(plan.slot_offsets, plan.slot_offsets + a.num_slots);
  for_all([&](int64_t j, int32_t slot, int32_t row) {
    const int64_t at_expert = next[slot]++;
    plan.row_idx[at_expert] = row;
    plan.return_selection[j] = static_cast<int32_t>(at_expert);
  });
}

}  // namespace

absl::Status CudaPlanSend(const PlanSendArgs& args, void* stream);  // device_plan.cu
absl::Status CudaPlanRecv(const PlanRecvArgs& args, void* stream);

const Op<PlanSendArgs> kPlanSend{"plan send", PlanSendReference, nullptr, TF_CUDA_LAUNCHER(CudaPlanSend)};
const Op<PlanRecvArgs> kPlanRecv{"plan receive", PlanRecvReference, nullptr, TF_CUDA_LAUNCHER(CudaPlanRecv)};

std::string ToString(const PlanFault& fault) {
  switch (fault.kind) {
    case PlanFault::kExpert:
      return absl::StrCat("routing: token ", fault.item, " selects expert ", fault.value, " at position ", fault.k,
                          ", which does not exist");
    case PlanFault::kLocation:
      return absl::StrCat("routing: token ", fault.item, " wants location ", fault.value, " of its expert at position ",
                          fault.k, ", which does not exist");
    case PlanFault::kCounts:
      return absl::StrCat("plan from rank ", fault.item, ": announces ", fault.value,
                          " selections, which is impossible, or more of them or of rows than there is room for");
    case PlanFault::kSlot:
      return absl::StrCat("plan from rank ", fault.item, ": names slot ", fault.value,
                          ", or a row, that does not exist");
    case PlanFault::kNone:
      break;
  }
  return "no fault";
}

absl::Status PlacementTables::Set(Stream& stream, const Placement& placement, RankId source) {
  if (Holds(placement, source)) return absl::OkStatus();
  std::vector<DevicePlacement::Location> locations;
  std::vector<int32_t> first_location, choice, first_choice = {0};
  for (int32_t i = 0; i < placement.num_locations(); ++i) {
    locations.push_back({placement.location(i).rank.value, placement.location(i).slot.value});
  }
  for (int32_t e = 0; e <= placement.num_experts(); ++e)
    first_location.push_back(placement.first_location(ExpertId(e)));
  for (int32_t e = 0; e < placement.num_experts(); ++e) {
    // Locations come in turn: those of tokens 0, 1, .. until the first comes again.
    for (int64_t t = 0;; ++t) {
      const int32_t location = first_location[e] + placement.ChooseIndex(ExpertId(e), source, t);
      if (t > 0 && location == choice[first_choice.back()]) break;
      choice.push_back(location);
    }
    first_choice.push_back(static_cast<int32_t>(choice.size()));
  }
  TF_RETURN_IF_ERROR(locations_.Upload(stream, locations));
  TF_RETURN_IF_ERROR(first_location_.Upload(stream, first_location));
  TF_RETURN_IF_ERROR(choice_.Upload(stream, choice));
  TF_RETURN_IF_ERROR(first_choice_.Upload(stream, first_choice));
  view_ = {.locations = locations_.as<DevicePlacement::Location>(),
           .first_location = first_location_.as<int32_t>(),
           .choice = choice_.as<int32_t>(),
           .first_choice = first_choice_.as<int32_t>(),
           .num_experts = placement.num_experts(),
           .num_ranks = placement.num_ranks()};
  digest_ = placement.Digest();
  source_ = source.value;
  return absl::OkStatus();
}

}  // namespace tokenferry

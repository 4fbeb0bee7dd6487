// Which rank's local slot holds which logical expert. Slots own memory, experts do not.
#pragma once

#include <string>
#include <vector>

#include "absl/types/span.h"
#include "core/ids.h"
#include "core/status.h"

namespace tokenferry {

// A value; the same on every rank. Any number of experts per rank, zero included; an expert may have replicas.
class Placement {
 public:
  struct Location {
    RankId rank;
    SlotId slot;
  };

  // Experts in order over the ranks; the first num_experts % num_ranks ranks hold one more.
  static Placement Linear(int num_experts, int num_ranks);

  // experts_per_rank[r][s] = expert in slot s of rank r. InvalidArgument when an expert is out of range, stands twice
  // on one rank, or stands nowhere.
  static absl::StatusOr<Placement> FromTable(int num_experts, std::vector<std::vector<int>> experts_per_rank);

  // JSON: {"experts_per_rank": [[..], ..]} for all layers. Errors name the file. Must have num_ranks rows.
  static absl::StatusOr<Placement> FromFile(const std::string& path, int num_experts, int num_ranks);

  int num_experts() const { return static_cast<int>(locations_.size()); }
  int num_ranks() const { return static_cast<int>(experts_per_rank_.size()); }
  int num_local_slots(RankId rank) const { return static_cast<int>(experts_per_rank_[rank.value].size()); }
  // Experts of a rank's slots, in slot order.
  absl::Span<const int> local_experts(RankId rank) const { return experts_per_rank_[rank.value]; }
  // All places of an expert, by rank; at least one.
  absl::Span<const Location> locations(ExpertId expert) const { return locations_[expert.value]; }
  // The place that token `token_idx` (index within its rank's tokens) uses: replicas in turn. An index into
  // locations().
  int32_t ChooseIndex(ExpertId expert, int64_t token_idx) const {
    return static_cast<int32_t>(token_idx % static_cast<int64_t>(locations_[expert.value].size()));
  }
  Location Choose(ExpertId expert, int64_t token_idx) const {
    return locations_[expert.value][ChooseIndex(expert, token_idx)];
  }
  // The same for equal tables, on every rank and machine.
  uint64_t Digest() const;

 private:
  std::vector<std::vector<int>> experts_per_rank_;
  std::vector<std::vector<Location>> locations_;
};

}  // namespace tokenferry

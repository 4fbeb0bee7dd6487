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

  // From now on tokens use a replica on their own rank's host where there is one. host_per_rank [R]: any number per
  // host.
  void SetHosts(absl::Span<const int> host_per_rank);

  int num_experts() const { return static_cast<int>(first_location_.size()) - 1; }
  int num_ranks() const { return static_cast<int>(experts_per_rank_.size()); }
  int num_local_slots(RankId rank) const { return static_cast<int>(experts_per_rank_[rank.value].size()); }
  // Experts of a rank's slots, in slot order.
  absl::Span<const int> local_experts(RankId rank) const { return experts_per_rank_[rank.value]; }
  // All locations of an expert, by rank; at least one.
  absl::Span<const Location> locations(ExpertId expert) const {
    const int32_t first = first_location_[expert.value];
    return absl::MakeConstSpan(locations_).subspan(first, first_location_[expert.value + 1] - first);
  }
  // The location that token `token_idx` of rank `source` (index within its tokens) uses: the replicas on the source's
  // host in turn; where there are none, or hosts are not known, all of them in turn. An index into locations().
  int32_t ChooseIndex(ExpertId expert, RankId source, int64_t token_idx) const;
  Location Choose(ExpertId expert, RankId source, int64_t token_idx) const {
    return locations(expert)[ChooseIndex(expert, source, token_idx)];
  }
  // The locations of all experts, numbered: those of expert 0, then those of expert 1, ..
  int32_t num_locations() const { return static_cast<int32_t>(locations_.size()); }
  int32_t first_location(ExpertId expert) const { return first_location_[expert.value]; }
  Location location(int32_t idx) const { return locations_[idx]; }
  // The same for equal tables and hosts, on every rank and machine.
  uint64_t Digest() const;

 private:
  std::vector<std::vector<int>> experts_per_rank_;
  std::vector<Location> locations_;
  std::vector<int32_t> first_location_ = {0};  // [E + 1]
  std::vector<int> host_per_rank_;             // [R], or empty: not known
};

}  // namespace tokenferry

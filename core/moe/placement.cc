#include "core/moe/placement.h"

#include <algorithm>
#include <limits>

#include "core/check.h"
#include "core/io/json.h"

namespace tokenferry {
namespace {

absl::StatusOr<std::vector<std::vector<int>>> ReadTable(const JsonNode& root, int num_experts) {
  TF_ASSIGN_OR_RETURN(const JsonNode list, root.Child("experts_per_rank"));
  TF_ASSIGN_OR_RETURN(const std::vector<JsonNode> rows, list.Elements());
  std::vector<std::vector<int>> table;
  for (const JsonNode& row : rows) {
    TF_ASSIGN_OR_RETURN(const std::vector<JsonNode> values, row.Elements());
    auto& experts = table.emplace_back();
    for (const JsonNode& value : values) {
      TF_ASSIGN_OR_RETURN(const int64_t expert, value.Int(0, std::numeric_limits<int>::max()));
      if (expert >= num_experts) {
        return value.Error(absl::StrCat("is expert ", expert, ", but the experts are 0 to ", num_experts - 1));
      }
      experts.push_back(static_cast<int>(expert));
    }
  }
  return table;
}

}  // namespace

Placement Placement::Linear(int num_experts, int num_ranks) {
  TF_CHECK_GE(num_experts, 0);
  TF_CHECK_GE(num_ranks, 1);
  std::vector<std::vector<int>> table(num_ranks);
  int next = 0;
  for (int r = 0; r < num_ranks; ++r) {
    const int count = num_experts / num_ranks + (r < num_experts % num_ranks ? 1 : 0);
    for (int i = 0; i < count; ++i) table[r].push_back(next++);
  }
  return *FromTable(num_experts, std::move(table));
}

absl::StatusOr<Placement> Placement::FromTable(int num_experts, std::vector<std::vector<int>> experts_per_rank) {
  if (num_experts < 0) return absl::InvalidArgumentError(absl::StrCat("placement: ", num_experts, " experts"));
  std::vector<std::vector<Location>> locations(num_experts);
  for (size_t r = 0; r < experts_per_rank.size(); ++r) {
    for (size_t s = 0; s < experts_per_rank[r].size(); ++s) {
      const int expert = experts_per_rank[r][s];
      if (expert < 0 || expert >= num_experts) {
        return absl::InvalidArgumentError(absl::StrCat("placement: slot ", s, " of rank ", r, " holds expert ", expert,
                                                       ", but the experts are 0 to ", num_experts - 1));
      }
      auto& found = locations[expert];
      if (!found.empty() && found.back().rank.value == static_cast<int>(r)) {
        return absl::InvalidArgumentError(absl::StrCat("placement: expert ", expert, " stands twice on rank ", r));
      }
      found.push_back({RankId(static_cast<int>(r)), SlotId(static_cast<int>(s))});
    }
  }
  Placement p;
  for (int e = 0; e < num_experts; ++e) {
    if (locations[e].empty()) {
      return absl::InvalidArgumentError(absl::StrCat("placement: expert ", e, " is on no rank"));
    }
    p.locations_.insert(p.locations_.end(), locations[e].begin(), locations[e].end());
    p.first_location_.push_back(static_cast<int32_t>(p.locations_.size()));
  }
  p.experts_per_rank_ = std::move(experts_per_rank);
  return p;
}

absl::StatusOr<Placement> Placement::FromFile(const std::string& path, int num_experts, int num_ranks) {
  TF_ASSIGN_OR_RETURN(const JsonDocument document, JsonDocument::ReadFile(path));
  TF_ASSIGN_OR_RETURN(std::vector<std::vector<int>> table, ReadTable(document.root(), num_experts));
  if (table.size() != static_cast<size_t>(num_ranks)) {
    TF_ASSIGN_OR_RETURN(const JsonNode list, document.root().Child("experts_per_rank"));
    return list.Error(absl::StrCat("has ", table.size(), " rows for ", num_ranks, " ranks"));
  }
  auto placement = FromTable(num_experts, std::move(table));
  if (!placement.ok()) return Annotate(placement.status(), path);
  return placement;
}

void Placement::SetHosts(absl::Span<const int> host_per_rank) {
  TF_CHECK_EQ(static_cast<int>(host_per_rank.size()), num_ranks());
  host_per_rank_.assign(host_per_rank.begin(), host_per_rank.end());
}

int32_t Placement::ChooseIndex(ExpertId expert, RankId source, int64_t token_idx) const {
  const absl::Span<const Location> replicas = locations(expert);
  const auto num_replicas = static_cast<int64_t>(replicas.size());
  if (num_replicas == 1) return 0;
  const auto is_near = [&](const Location& at) {
    return !host_per_rank_.empty() && host_per_rank_[at.rank.value] == host_per_rank_[source.value];
  };
  const int64_t num_near = std::count_if(replicas.begin(), replicas.end(), is_near);
  if (num_near == 0) return static_cast<int32_t>(token_idx % num_replicas);
  int64_t skip = token_idx % num_near;
  for (int32_t i = 0;; ++i) {
    if (is_near(replicas[i]) && skip-- == 0) return i;
  }
}

uint64_t Placement::Digest() const {
  uint64_t hash = 0xCBF29CE484222325ull;  // FNV-1a over the table's numbers
  auto add = [&hash](uint64_t v) { hash = (hash ^ v) * 0x100000001B3ull; };
  for (const auto& row : experts_per_rank_) {
    add(row.size() + 1);
    for (int e : row) add(static_cast<uint64_t>(e) + 0x9E3779B9u);
  }
  for (int host : host_per_rank_) add(static_cast<uint64_t>(host) + 1);
  return hash;
}

}  // namespace tokenferry

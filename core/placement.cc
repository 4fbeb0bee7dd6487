#include "core/placement.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

namespace tokenferry {

Placement Placement::Linear(int num_experts, int num_ranks) {
  std::vector<std::vector<int>> table(num_ranks);
  int next = 0;
  for (int r = 0; r < num_ranks; ++r) {
    const int count = num_experts / num_ranks + (r < num_experts % num_ranks ? 1 : 0);
    for (int i = 0; i < count; ++i) table[r].push_back(next++);
  }
  return *FromTable(num_experts, std::move(table));
}

absl::StatusOr<Placement> Placement::FromTable(int num_experts, std::vector<std::vector<int>> experts_per_rank) {
  Placement p;
  p.locations_.resize(num_experts);
  for (size_t r = 0; r < experts_per_rank.size(); ++r) {
    for (size_t s = 0; s < experts_per_rank[r].size(); ++s) {
      const int expert = experts_per_rank[r][s];
      if (expert < 0 || expert >= num_experts) {
        return absl::InvalidArgumentError(absl::StrCat("placement: slot ", s, " of rank ", r, " holds expert ", expert,
                                                       ", but the experts are 0 to ", num_experts - 1));
      }
      auto& places = p.locations_[expert];
      if (!places.empty() && places.back().rank.value == static_cast<int>(r)) {
        return absl::InvalidArgumentError(absl::StrCat("placement: expert ", expert, " stands twice on rank ", r));
      }
      places.push_back({RankId(static_cast<int>(r)), SlotId(static_cast<int>(s))});
    }
  }
  for (int e = 0; e < num_experts; ++e) {
    if (p.locations_[e].empty()) return absl::InvalidArgumentError(absl::StrCat("placement: expert ", e, " is on no rank"));
  }
  p.experts_per_rank_ = std::move(experts_per_rank);
  return p;
}

absl::StatusOr<Placement> Placement::FromFile(const std::string& path, int num_experts, int num_ranks) {
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(absl::StrCat("placement file ", path, ": cannot be read"));
  const nlohmann::json json = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("experts_per_rank") || !json["experts_per_rank"].is_array()) {
    return absl::InvalidArgumentError(absl::StrCat("placement file ", path, ": not JSON with a list \"experts_per_rank\""));
  }
  std::vector<std::vector<int>> table;
  for (const auto& row : json["experts_per_rank"]) {
    if (!row.is_array()) {
      return absl::InvalidArgumentError(absl::StrCat("placement file ", path, ": row ", table.size(), " is not a list"));
    }
    table.emplace_back();
    for (const auto& expert : row) {
      if (!expert.is_number_integer()) {
        return absl::InvalidArgumentError(
            absl::StrCat("placement file ", path, ": row ", table.size() - 1, " holds ", expert.dump(), ", not an expert number"));
      }
      table.back().push_back(expert.get<int>());
    }
  }
  if (static_cast<int>(table.size()) != num_ranks) {
    return absl::InvalidArgumentError(
        absl::StrCat("placement file ", path, ": ", table.size(), " rows for ", num_ranks, " ranks"));
  }
  auto placement = FromTable(num_experts, std::move(table));
  if (!placement.ok()) return Annotate(placement.status(), path);
  return placement;
}

uint64_t Placement::Digest() const {
  uint64_t hash = 0xCBF29CE484222325ull;  // FNV-1a over the table's numbers
  auto add = [&hash](uint64_t v) { hash = (hash ^ v) * 0x100000001B3ull; };
  for (const auto& row : experts_per_rank_) {
    add(row.size() + 1);
    for (int e : row) add(static_cast<uint64_t>(e) + 0x9E3779B9u);
  }
  return hash;
}

}  // namespace tokenferry

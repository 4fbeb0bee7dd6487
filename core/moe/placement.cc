#include "core/moe/placement.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "core/check.h"

namespace tokenferry {
namespace {

using Json = nlohmann::json;

// A value as an error message shows it: not more than a few words of it.
std::string Shown(const Json& value) {
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  if (text.size() > 40) text = absl::StrCat(text.substr(0, 40), "..");
  return text;
}

// nlohmann::json's own conversion to int would wrap numbers around silently.
std::optional<int> AsExpert(const Json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  const uint64_t number = value.get<uint64_t>();
  if (number > static_cast<uint64_t>(std::numeric_limits<int>::max())) return std::nullopt;
  return static_cast<int>(number);
}

absl::StatusOr<std::vector<std::vector<int>>> ParseTable(const Json& json) {
  const auto rows = json.is_object() ? json.find("experts_per_rank") : json.end();
  if (rows == json.end() || !rows->is_array()) {
    return absl::InvalidArgumentError("not a JSON object with a list \"experts_per_rank\"");
  }
  std::vector<std::vector<int>> table;
  for (const Json& row : *rows) {
    if (!row.is_array()) return absl::InvalidArgumentError(absl::StrCat("row ", table.size(), " is not a list"));
    auto& experts = table.emplace_back();
    for (const Json& value : row) {
      const std::optional<int> expert = AsExpert(value);
      if (!expert.has_value()) {
        return absl::InvalidArgumentError(
            absl::StrCat("row ", table.size() - 1, " holds ", Shown(value), ", which is no expert number"));
      }
      experts.push_back(*expert);
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
      auto& places = locations[expert];
      if (!places.empty() && places.back().rank.value == static_cast<int>(r)) {
        return absl::InvalidArgumentError(absl::StrCat("placement: expert ", expert, " stands twice on rank ", r));
      }
      places.push_back({RankId(static_cast<int>(r)), SlotId(static_cast<int>(s))});
    }
  }
  Placement p;
  for (int e = 0; e < num_experts; ++e) {
    if (locations[e].empty()) {
      return absl::InvalidArgumentError(absl::StrCat("placement: expert ", e, " is on no rank"));
    }
    p.places_.insert(p.places_.end(), locations[e].begin(), locations[e].end());
    p.first_place_.push_back(static_cast<int32_t>(p.places_.size()));
  }
  p.experts_per_rank_ = std::move(experts_per_rank);
  return p;
}

absl::StatusOr<Placement> Placement::FromFile(const std::string& path, int num_experts, int num_ranks) {
  const std::string context = absl::StrCat("placement file ", path);
  std::ifstream file(path);
  // Not parsed from the stream: reading a folder would throw there; operator<< turns that into a failed stream.
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) return absl::NotFoundError(absl::StrCat(context, ": cannot be read, or empty"));
  const Json json = Json::parse(text.str(), nullptr, /*allow_exceptions=*/false);
  auto table = ParseTable(json);
  if (!table.ok()) return Annotate(table.status(), context);
  if (table->size() != static_cast<size_t>(num_ranks)) {
    return absl::InvalidArgumentError(absl::StrCat(context, ": ", table->size(), " rows for ", num_ranks, " ranks"));
  }
  auto placement = FromTable(num_experts, *std::move(table));
  if (!placement.ok()) return Annotate(placement.status(), context);
  return placement;
}

void Placement::SetHosts(absl::Span<const int> host_per_rank) {
  TF_CHECK_EQ(static_cast<int>(host_per_rank.size()), num_ranks());
  host_per_rank_.assign(host_per_rank.begin(), host_per_rank.end());
}

int32_t Placement::ChooseIndex(ExpertId expert, RankId source, int64_t token_idx) const {
  const absl::Span<const Location> places = locations(expert);
  const auto num_places = static_cast<int64_t>(places.size());
  if (num_places == 1) return 0;
  const auto is_near = [&](const Location& place) {
    return !host_per_rank_.empty() && host_per_rank_[place.rank.value] == host_per_rank_[source.value];
  };
  const int64_t num_near = std::count_if(places.begin(), places.end(), is_near);
  if (num_near == 0) return static_cast<int32_t>(token_idx % num_places);
  int64_t skip = token_idx % num_near;
  for (int32_t i = 0;; ++i) {
    if (is_near(places[i]) && skip-- == 0) return i;
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

// Strong integer types, so that a rank, an expert and a slot cannot be swapped.
#pragma once

#include <compare>
#include <cstdint>
#include <ostream>

namespace tokenferry {

template <class Tag>
struct StrongId {
  int32_t value = -1;
  constexpr StrongId() = default;
  constexpr explicit StrongId(int32_t v) : value(v) {}
  constexpr auto operator<=>(const StrongId&) const = default;
  friend std::ostream& operator<<(std::ostream& out, StrongId id) { return out << id.value; }
};

using RankId = StrongId<struct RankTag>;      // 0 .. num_ranks - 1
using ExpertId = StrongId<struct ExpertTag>;  // logical expert of a layer, 0 .. num_experts - 1
using SlotId = StrongId<struct SlotTag>;      // local slot of one rank, 0 .. num_local_slots(rank) - 1

}  // namespace tokenferry

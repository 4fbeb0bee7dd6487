// Finding the group of an item in an array of offsets.
#pragma once

namespace tokenferry {

// The group g whose range [offsets[g], offsets[g + 1]) holds `item`: rows or selections that lie group by group, by
// rank or by slot. offsets [num_groups + 1], not falling, offsets[0] <= item < offsets[num_groups]; groups may be
// empty.
template <class Offset, class Group, class Item>
__device__ Group GroupHolding(const Offset* offsets, Group num_groups, Item item) {
  Group low = 0, high = num_groups;  // offsets[low] <= item < offsets[high]
  while (high - low > 1) {
    const Group middle = (low + high) / 2;
    (offsets[middle] <= item ? low : high) = middle;
  }
  return low;
}

}  // namespace tokenferry

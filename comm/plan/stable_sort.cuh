// A stable counting sort by one block: where each of n entries goes that have a small key. Each warp has a piece of the
// entries, in order, and meets its own 32 at a time in both passes: the keys are counted, then each entry is given the
// number of those before it with its key. No atomics: the order is that of the entries.
#pragma once

#include <cstdint>

#include "core/device/cuda_launch.cuh"

namespace tokenferry {

__device__ inline int LaneOf() { return static_cast<int>(threadIdx.x) % kWarpSize; }
__device__ inline int WarpOfThread() { return static_cast<int>(threadIdx.x) / kWarpSize; }
__device__ inline unsigned LanesBefore() { return (1u << LaneOf()) - 1; }

// values[i] = the sum of those before i, i <= size; `values` [size + 1] in shared memory. By one warp.
__device__ inline void ScanByWarp(int32_t* values, int size) {
  int32_t before = 0;
  for (int first = 0; first < size; first += kWarpSize) {
    const int i = first + LaneOf();
    const int32_t value = i < size ? values[i] : 0;
    int32_t sum = value;
    for (int width = 1; width < kWarpSize; width *= 2) {
      const int32_t other = __shfl_up_sync(kWholeWarp, sum, width);
      if (LaneOf() >= width) sum += other;
    }
    if (i < size) values[i] = before + sum - value;
    before += __shfl_sync(kWholeWarp, sum, kWarpSize - 1);
  }
  if (LaneOf() == 0) values[size] = before;
}

// The sort's shared memory: for each warp and key how many entries its piece has, then how many came before.
class StableSort {
 public:
  static __host__ __device__ size_t SharedBytes(int num_warps, int num_keys) {
    return (static_cast<size_t>(num_warps) + 1) * (num_keys + 1) * sizeof(int32_t);
  }

  __device__ StableSort(int32_t* shared, int num_keys) : num_keys_(num_keys), shared_(shared) {}

  // Calls visit(i, key) with the whole warp for each 32 entries of the warp's piece of [0, n); key_of(i) is -1 for an
  // entry that has no place, and so is that of lanes behind the end (i is then not below n).
  template <class KeyOf, class Visit>
  __device__ void ForPiece(int64_t n, const KeyOf& key_of, const Visit& visit) const {
    const int64_t num_warps = blockDim.x / kWarpSize, num_steps = (n + kWarpSize - 1) / kWarpSize;
    const int64_t steps = (num_steps + num_warps - 1) / num_warps, begin = WarpOfThread() * steps * kWarpSize;
    for (int64_t step = 0; step < steps; ++step) {
      const int64_t first = begin + step * kWarpSize;
      if (first >= n) return;  // the whole warp
      const int64_t i = first + LaneOf();
      const int32_t key = i < n ? key_of(i) : -1;
      visit(i, key, __match_any_sync(kWholeWarp, key));
      __syncwarp();
    }
  }

  // The three phases; the block synchronises between them.
  __device__ void ClearCounts() {
    for (int key = LaneOf(); key < num_keys_; key += kWarpSize) Of(WarpOfThread(), key) = 0;
    __syncwarp();
  }
  // `counted`: the lanes of this key that count.
  __device__ void Count(int32_t key, unsigned same, unsigned counted) {
    if (key >= 0 && LaneOf() == __ffs(same) - 1) Of(WarpOfThread(), key) += __popc(counted);
  }
  // After __syncthreads: counts become how many came before in other pieces, and, after the next one, offsets()[key] is
  // where keys begin.
  __device__ void Scan() {
    const int num_warps = blockDim.x / kWarpSize;
    for (int key = threadIdx.x; key < num_keys_; key += blockDim.x) {
      int32_t before = 0;
      for (int w = 0; w < num_warps; ++w) {
        const int32_t count = Of(w, key);
        Of(w, key) = before;
        before += count;
      }
      offsets()[key] = before;
    }
    __syncthreads();
    if (WarpOfThread() == 0) ScanByWarp(offsets(), num_keys_);
  }
  // How many entries of the lane's key came before it, in order, those counted here included: their place is
  // offsets()[key] + this.
  __device__ int32_t Before(int32_t key, unsigned counted) const {
    return key < 0 ? 0 : Of(WarpOfThread(), key) + __popc(counted & LanesBefore());
  }
  // After Before of the whole warp.
  __device__ void Advance(int32_t key, unsigned same, unsigned counted) {
    __syncwarp();
    Count(key, same, counted);
  }
  __device__ int32_t* offsets() const {
    return shared_ + (blockDim.x / kWarpSize) * (num_keys_ + 1);
  }  // [num_keys + 1]

 private:
  __device__ int32_t& Of(int warp, int key) const { return shared_[warp * (num_keys_ + 1) + key]; }

  const int num_keys_;
  int32_t* const shared_;
};

// Warps for a sort whose tables, `tables` of them, have to fit into shared memory.
inline int SortWarps(int64_t num_entries, int num_keys, int tables) {
  constexpr int kMostWarps = 16;
  constexpr size_t kMostBytes = 96 << 10;
  int warps = static_cast<int>(CeilDiv(num_entries, kWarpSize));
  warps = warps < 1 ? 1 : warps > kMostWarps ? kMostWarps : warps;
  while (warps > 1 && tables * StableSort::SharedBytes(warps, num_keys) > kMostBytes) --warps;
  return warps;
}

}  // namespace tokenferry

// The splits of a token's keys (attention_mma.h): who computes them, and in which order they are added.
//
// Either a block of threads takes all splits of its heads, or each split has a block of its own, which adds its
// contexts when those before it have been added. Both give the same bits. Blocks take their parts in the order in which
// they start, a token's splits one after the other: so one waits only for others that have started, and those end.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "core/kernels/exp.h"
#include "runtime/attention/attention_mma.h"

namespace tokenferry::attention_mma {

constexpr int64_t kSplitBlocks = kSplitKeys / kCacheBlockTokens;

// A block's: splits [begin, end) of an item, if the token has as many.
struct Part {
  int64_t item, begin, end;  // item: among those of all tokens
};

// One split of an item, of those that the token has.
struct Split {
  int64_t number;
  bool is_last;
  float2* sums;   // SplitSums::sums of the item's heads
  int32_t* turn;  // how many have been added, where blocks wait for each other; else null

  __device__ bool is_only() const { return number == 0 && is_last; }

  // Thread 0 waits, and a barrier follows.
  __device__ void AwaitTurn() const {
    if (turn == nullptr || number == 0 || threadIdx.x != 0) return;
    int32_t added;
    do {
      asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(added) : "l"(turn) : "memory");
    } while (added != number);
  }
  // Behind a barrier.
  __device__ void PassTurn() const {
    if (turn == nullptr || threadIdx.x != 0) return;
    const auto added = static_cast<int32_t>(is_last ? 0 : number + 1);
    asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(turn), "r"(added) : "memory");
  }
};

// What a launch is cut into: items of a token (tiles of its heads), and at most num_splits splits of each.
struct Parts {
  SplitSums space;
  int64_t items_per_token, num_splits;
  bool are_apart;  // a block for each split

  __host__ int64_t num_blocks(int64_t num_tokens) const {
    return num_tokens * items_per_token * (are_apart ? num_splits : 1);
  }
  // Split `number` of the num_splits_of_token that a part's token has, whose first head is row `first_row` of all.
  __device__ Split SplitOf(const Part& part, int64_t first_row, int64_t number, int64_t num_splits_of_token) const {
    return {number, number + 1 == num_splits_of_token, reinterpret_cast<float2*>(space.sums) + first_row,
            are_apart ? space.turns + 1 + part.item : nullptr};
  }
};

// With this many items blocks for each split would find no SM idle, and most of them nothing to do.
constexpr int64_t kManyItems = 1024;

inline absl::StatusOr<Parts> CutIntoParts(const SplitSums& space, int64_t num_tokens, int64_t items_per_token,
                                          int64_t num_splits) {
  if (num_splits > 1 && (space.sums == nullptr || space.turns == nullptr)) {
    return absl::InvalidArgumentError(
        absl::StrCat("attention over up to ", num_splits, " splits of ", kSplitKeys, " keys needs SplitSums"));
  }
  return Parts{space, items_per_token, num_splits, num_splits > 1 && num_tokens * items_per_token < kManyItems};
}

// Called by all threads of a block. `shared`: four bytes that nobody writes before the next barrier.
__device__ inline Part TakePart(const Parts& parts, char* shared) {
  if (!parts.are_apart) return {blockIdx.x, 0, parts.num_splits};
  auto* number = reinterpret_cast<int32_t*>(shared);
  if (threadIdx.x == 0) {
    *number = atomicAdd(parts.space.turns, 1);
    if (*number + 1 == static_cast<int64_t>(gridDim.x))
      parts.space.turns[0] = 0;  // all have asked: for the next launch
  }
  __syncthreads();
  const int64_t blocks_per_token = parts.items_per_token * parts.num_splits;
  const int64_t token = *number / blocks_per_token, rest = *number % blocks_per_token;
  const int64_t split = rest / parts.items_per_token;
  return {token * parts.items_per_token + rest % parts.items_per_token, split, split + 1};
}

// A head's contexts so far and those of a split, both relative to a maximum of their own, as relative to the larger:
// before * exp(its maximum - the larger) + own * exp(its maximum - the larger), every product rounded. With the last
// split, over the sum of all weights; zeros where there is none.
struct SplitScale {
  float max, sum, before_factor = 0.0f, own_factor = 1.0f;
  bool is_first, is_last;

  __device__ SplitScale(const Split& split, int head, float own_max, float own_sum)
      : max(own_max), sum(own_sum), is_first(split.number == 0), is_last(split.is_last) {
    if (is_first) return;
    const float2 before = split.sums[head];
    max = before.y > own_max ? before.y : own_max;
    before_factor = ExpF32(__fsub_rn(before.y, max)), own_factor = ExpF32(__fsub_rn(own_max, max));
    sum = __fadd_rn(__fmul_rn(before.x, before_factor), __fmul_rn(own_sum, own_factor));
  }
  __device__ float2 operator()(float2 own, const float2* before) const {
    const float2 all = is_first ? own : make_float2(Add(own.x, before->x), Add(own.y, before->y));
    if (!is_last) return all;
    return sum == 0.0f ? make_float2(0.0f, 0.0f) : make_float2(__fdiv_rn(all.x, sum), __fdiv_rn(all.y, sum));
  }

 private:
  __device__ float Add(float own, float before) const {
    return __fadd_rn(__fmul_rn(before, before_factor), __fmul_rn(own, own_factor));
  }
};

}  // namespace tokenferry::attention_mma

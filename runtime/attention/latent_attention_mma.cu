#include <algorithm>

#include "core/device/cuda_launch.cuh"
#include "runtime/attention/attention_mma.cuh"
#include "runtime/attention/attention_mma.h"

namespace tokenferry {
namespace {

using attention_mma::kKeys, attention_mma::Rows, attention_mma::Part, attention_mma::Parts;

constexpr int kMaxLatent = 512, kMaxRope = 64;
// 64 heads. Values are the keys' first `latent` columns.
using LatentTile = attention_mma::Tile<4, 2, kMaxLatent / 16 / 2>;

using LatentLayout = attention_mma::Layout<LatentTile, 1>;

LatentLayout LayoutOf(const LatentAttentionArgs& a) { return LatentLayout(static_cast<int>(a.cache.first) + a.rope); }

// Rounded to bf16; heads and columns that there are not are zeros.
__device__ void LoadQueries(const LatentAttentionArgs& a, int64_t t, int first_head, const Rows& rows, char* to) {
  const int latent = static_cast<int>(a.cache.first), width = latent + a.rope, num_pairs = 8 * rows.num_steps;
  for (int at = threadIdx.x; at < LatentTile::kHeads * num_pairs; at += LatentTile::kThreads) {
    const int h = at / num_pairs, i = at % num_pairs * 2;
    const int64_t row = t * a.heads + first_head + h;
    const auto value = [&](int k) {
      if (first_head + h >= a.heads || k >= width) return 0.0f;
      return k < latent ? a.q_latent[row * latent + k] : a.q[row * (a.nope + a.rope) + a.nope + k - latent];
    };
    attention_mma::PutPair(rows, h, i, value(i), value(i + 1), to);
  }
}

// A block per (token, 64 heads) or per split of its keys; those of a token side by side, so that all but the first find
// the keys in L2.
template <bool kIsSparse, int kStages>
__global__ void __launch_bounds__(LatentTile::kThreads, 1) LatentAttentionMma(LatentAttentionArgs a, Parts parts) {
  extern __shared__ __align__(128) char tile_memory[];
  const LatentLayout layout(static_cast<int>(a.cache.first) + a.rope);
  const Part part = TakePart(parts, tile_memory + layout.tile(kStages));
  const int64_t t = part.item / parts.items_per_token, latent = a.cache.first, position = a.tokens.position[t];
  const int64_t num_keys = kIsSparse ? min(position + 1, a.num_selected) : position + 1;
  const int64_t num_splits = max((num_keys + kSplitKeys - 1) / kSplitKeys, int64_t{1});  // without keys: zeros
  if (part.begin >= num_splits) return;
  const int first_head = static_cast<int>(part.item % parts.items_per_token) * LatentTile::kHeads;
  const int64_t first_row = t * a.heads + first_head;  // (token, head) of all
  char* const stages = tile_memory + layout.stages();
  LoadQueries(a, t, first_head, layout.rows, tile_memory);

  const int32_t seq = a.tokens.seq[t];
  const int32_t* list = kIsSparse ? a.selected + t * a.num_selected : nullptr;
  const auto* data = static_cast<const char*>(a.cache.data);
  for (int64_t split = part.begin; split < min(part.end, num_splits); ++split) {
    LatentTile tile(tile_memory + layout.tile(kStages));
    const int64_t first = split * kSplitKeys, count = min(num_keys - first, kSplitKeys);
    attention_mma::ForBlocks<kStages>(
        (count + kKeys - 1) / kKeys,
        [&](int64_t number, int stage) {
          const uint32_t to = SharedAddress(stages + stage * layout.stage_bytes());
          for (int j = threadIdx.x / 32; j < kKeys; j += LatentTile::kThreads / 32) {
            const int64_t key = first + number * kKeys + j;
            const char* row = nullptr;
            if (key < num_keys) row = data + 2 * CacheRow(a.cache, seq, kIsSparse ? list[key] : key);
            attention_mma::CopyRow(layout.rows, j, row, data, to);
          }
        },
        [&](int64_t number, int stage) {
          const char* keys = stages + stage * layout.stage_bytes();
          const int64_t left = count - number * kKeys;
          tile.Add({tile_memory, keys, keys, layout.rows, static_cast<int>(latent / 16)},
                   [&](float dot, int, int key) { return key < left ? __fmul_rn(dot, a.scale) : -INFINITY; });
        });
    tile.Finish(parts.SplitOf(part, first_row, split, num_splits), a.heads - first_head, static_cast<int>(latent / 16),
                [&](int h) { return a.out + (first_row + h) * latent; });
  }
}

template <bool kIsSparse, int kStages>
absl::Status Launch(const LatentAttentionArgs& a, void* stream) {
  int64_t most_keys = a.cache.max_blocks * kCacheBlockTokens;
  if (kIsSparse) most_keys = std::min(most_keys, a.num_selected);
  TF_ASSIGN_OR_RETURN(const Parts parts,
                      attention_mma::CutIntoParts(a.splits, a.tokens.num_tokens, CeilDiv(a.heads, LatentTile::kHeads),
                                                  CeilDiv(most_keys, kSplitKeys)));
  return LaunchKernel(LatentAttentionMma<kIsSparse, kStages>,
                      {parts.num_blocks(a.tokens.num_tokens), LatentTile::kThreads, LayoutOf(a).bytes(kStages)}, stream,
                      a, parts);
}

template <bool kIsSparse>
absl::Status LaunchForMemory(const LatentAttentionArgs& a, void* stream) {
  TF_ASSIGN_OR_RETURN(const size_t most, MostSharedBytes());
  return LayoutOf(a).bytes(2) <= most ? Launch<kIsSparse, 2>(a, stream) : Launch<kIsSparse, 1>(a, stream);
}

}  // namespace

absl::StatusOr<bool> TakesTensorCores(const LatentAttentionArgs& a) {
  const int64_t latent = a.cache.first;
  if (a.compute != Compute::kBF16 || a.cache.dtype != DType::kBF16 || latent % 16 != 0 || latent > kMaxLatent ||
      a.rope > kMaxRope || a.rope % 8 != 0) {
    return false;
  }
  TF_ASSIGN_OR_RETURN(const size_t most, MostSharedBytes());
  return LayoutOf(a).bytes(1) <= most;
}

absl::Status CudaMmaLatentAttention(const LatentAttentionArgs& a, void* stream) {
  return a.selected != nullptr ? LaunchForMemory<true>(a, stream) : LaunchForMemory<false>(a, stream);
}

}  // namespace tokenferry

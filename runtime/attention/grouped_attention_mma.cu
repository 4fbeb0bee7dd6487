#include <algorithm>

#include "core/device/cuda_launch.cuh"
#include "runtime/attention/attention_mma.cuh"
#include "runtime/attention/attention_mma.h"

namespace tokenferry {
namespace {

using attention_mma::kKeys, attention_mma::Part, attention_mma::Parts;

constexpr int kMaxHeadDim = 256;
// 16 heads, which few models have more of for a head of keys.
using GroupedTile = attention_mma::Tile<1, 4, kMaxHeadDim / 16 / 4>;

using GroupedLayout = attention_mma::Layout<GroupedTile, 2>;  // keys, then values

// A block per (token, head of keys, 16 of its query heads), or per split of its keys.
template <int kStages>
__global__ void __launch_bounds__(GroupedTile::kThreads) GroupedAttentionMma(GroupedAttentionArgs a, Parts parts) {
  extern __shared__ __align__(128) char tile_memory[];
  const GroupedLayout layout(a.head_dim);
  const Part part = TakePart(parts, tile_memory + layout.tile(kStages));
  const int64_t num_head_tiles = parts.items_per_token / a.kv_heads;
  const int64_t group = part.item / num_head_tiles, t = group / a.kv_heads, kv_head = group % a.kv_heads;
  const int64_t position = a.tokens.position[t], begin = a.keys.First(position), last = a.Last(t);
  const int64_t first_split = begin / kSplitKeys;                                     // of those that the token has
  const int64_t num_splits = last < begin ? 1 : last / kSplitKeys - first_split + 1;  // without keys: zeros
  if (part.begin >= num_splits) return;
  const int heads_per_group = a.heads / a.kv_heads;
  const int first = static_cast<int>(part.item % num_head_tiles) * GroupedTile::kHeads;  // of the group's
  const int num_heads = min(heads_per_group - first, GroupedTile::kHeads);
  const int64_t first_head = kv_head * heads_per_group + first, size = a.head_dim;
  char* const stages = tile_memory + layout.stages();

  const int64_t first_row = group * heads_per_group + first;  // (token, head) of all
  const float* q = a.q + first_row * size;
  for (int at = threadIdx.x; at < GroupedTile::kHeads * a.head_dim / 2; at += GroupedTile::kThreads) {
    const int h = 2 * at / a.head_dim, i = 2 * at % a.head_dim;
    const bool is_there = h < num_heads;
    attention_mma::PutPair(layout.rows, h, i, is_there ? q[h * size + i] : 0.0f, is_there ? q[h * size + i + 1] : 0.0f,
                           tile_memory);
  }

  const int32_t seq = a.tokens.seq[t];
  const auto* data = static_cast<const char*>(a.cache.data);
  for (int64_t split = part.begin; split < min(part.end, num_splits); ++split) {
    GroupedTile tile(tile_memory + layout.tile(kStages));
    if (a.sinks != nullptr && split == 0) {
      tile.BeginWith([&](int h) { return a.sinks[first_head + min(h, num_heads - 1)]; });
    }
    const int64_t first_block = max(begin / kKeys, (first_split + split) * attention_mma::kSplitBlocks);
    const int64_t end_block = min(last / kKeys + 1, (first_split + split + 1) * attention_mma::kSplitBlocks);
    attention_mma::ForBlocks<kStages>(
        last < begin ? 0 : end_block - first_block,
        [&](int64_t number, int stage) {
          const uint32_t keys = SharedAddress(stages + stage * layout.stage_bytes());
          const uint32_t values = keys + kKeys * layout.rows.row_bytes;
          for (int j = threadIdx.x / 32; j < kKeys; j += GroupedTile::kThreads / 32) {
            const int64_t key = (first_block + number) * kKeys + j;
            const char *row = nullptr, *value = nullptr;
            if (begin <= key && key <= last) {
              row = data + 2 * (CacheRow(a.cache, seq, key) + kv_head * size);
              value = row + 2 * a.cache.first;
            }
            attention_mma::CopyRow(layout.rows, j, row, data, keys);
            attention_mma::CopyRow(layout.rows, j, value, data, values);
          }
        },
        [&](int64_t number, int stage) {
          const char* keys = stages + stage * layout.stage_bytes();
          tile.Add({tile_memory, keys, keys + kKeys * layout.rows.row_bytes, layout.rows, a.head_dim / 16},
                   [&](float dot, int h, int j) {
                     const int64_t key = (first_block + number) * kKeys + j;
                     if (key < begin || key > last) return -INFINITY;
                     if (a.bias.values != nullptr)
                       dot = __fadd_rn(dot, a.bias.At(first_head + min(h, num_heads - 1), key - position));
                     return __fmul_rn(dot, a.scale);
                   });
        });
    tile.Finish(parts.SplitOf(part, first_row, split, num_splits), num_heads, a.head_dim / 16,
                [&](int h) { return a.out + (first_row + h) * size; });
  }
}

template <int kStages>
absl::Status Launch(const GroupedAttentionArgs& a, void* stream) {
  const int64_t num_head_tiles = CeilDiv(a.heads / a.kv_heads, GroupedTile::kHeads);
  int64_t num_splits = CeilDiv(a.cache.max_blocks * kCacheBlockTokens, kSplitKeys);
  // A window of w keys touches one split more than it fills.
  if (a.keys.kind != KeyRange::Kind::kAll) num_splits = std::min(num_splits, CeilDiv(a.keys.size, kSplitKeys) + 1);
  TF_ASSIGN_OR_RETURN(const Parts parts, attention_mma::CutIntoParts(a.splits, a.tokens.num_tokens,
                                                                     a.kv_heads * num_head_tiles, num_splits));
  return LaunchKernel(
      GroupedAttentionMma<kStages>,
      {parts.num_blocks(a.tokens.num_tokens), GroupedTile::kThreads, GroupedLayout(a.head_dim).bytes(kStages)}, stream,
      a, parts);
}

}  // namespace

bool TakesTensorCores(const GroupedAttentionArgs& a) {
  return a.compute == Compute::kBF16 && a.cache.dtype == DType::kBF16 && a.head_dim % 16 == 0 &&
         a.head_dim <= kMaxHeadDim;
}

absl::Status CudaMmaGroupedAttention(const GroupedAttentionArgs& a, void* stream) {
  TF_ASSIGN_OR_RETURN(const size_t most, MostSharedBytes());
  return GroupedLayout(a.head_dim).bytes(2) <= most ? Launch<2>(a, stream) : Launch<1>(a, stream);
}

}  // namespace tokenferry

// Attention in Compute::kBF16 on tensor cores: the operations of attention_ops.h, but for the orders of sums, which are
// the instructions' own, and for the weights, which are rounded to bf16 before they multiply values; their sum adds
// them up unrounded. Contexts and sums of kSplitKeys keys at a time, from position 0 on, are added one split after the
// other. The order follows from the keys' places in blocks of kCacheBlockTokens and in splits alone, so that a token's
// bits do not depend on the others of its step. Internal to this folder's CUDA code.
#pragma once

#include "absl/status/statusor.h"
#include "runtime/attention/attention_ops.h"

namespace tokenferry {

// Few tokens with long contexts leave most of a GPU idle unless blocks of threads share a token's keys; 2.3 MiB of
// DeepSeek-V3's are then read for 128 KiB of contexts of 64 heads that are added in the second-level cache.
inline constexpr int64_t kSplitKeys = 2048;

// Whether the functions below can compute it, which follows from the model's types and sizes and from the kind of GPU
// alone: a bf16 cache, and
// - latent attention: `latent` a multiple of 16 up to 512, rotary values a multiple of 8 up to 64, and shared memory
//   for queries of 64 heads and 64 keys (DeepSeek-V3's take 153 KiB of the 163 that A100 has);
// - grouped attention: a head size that is a multiple of 16, up to 256.
absl::StatusOr<bool> TakesTensorCores(const LatentAttentionArgs& args);
bool TakesTensorCores(const GroupedAttentionArgs& args);

// InvalidArgument where the block table has room for more than kSplitKeys keys and `splits` is null.
absl::Status CudaMmaLatentAttention(const LatentAttentionArgs& args, void* stream);
absl::Status CudaMmaGroupedAttention(const GroupedAttentionArgs& args, void* stream);

// Of any sizes and formats. Inputs in one chain from 0 to the end, 16 per instruction.
absl::Status CudaMmaAbsorbQuery(const AbsorbQueryArgs& args, void* stream);
absl::Status CudaMmaExpandValue(const ExpandValueArgs& args, void* stream);

}  // namespace tokenferry

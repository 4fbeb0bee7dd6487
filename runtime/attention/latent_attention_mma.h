// Latent attention in Compute::kBF16 on tensor cores. Internal to this folder's CUDA code.
#pragma once

#include "absl/status/statusor.h"
#include "runtime/attention/attention_ops.h"

namespace tokenferry {

// Whether CudaMmaLatentAttention can compute it, which follows from the model's types and sizes and from the kind of
// GPU alone: a bf16 cache, `latent` a multiple of 32 up to 512, up to 64 rotary values, rows of whole chunks of 16
// bytes; and shared memory for the queries of 64 heads and 64 keys (DeepSeek-V3's take 153 KiB of the 163 that A100
// has).
absl::StatusOr<bool> TakesTensorCores(const LatentAttentionArgs& args);

// LatentAttention, but for the orders of sums, which are the instructions' own, and for the weights, which are rounded
// to bf16 before they multiply keys; their sum adds them up unrounded. The order follows from the keys' places in
// blocks of kCacheBlockTokens alone, so that a token's bits do not depend on the others of its step.
absl::Status CudaMmaLatentAttention(const LatentAttentionArgs& args, void* stream);

}  // namespace tokenferry

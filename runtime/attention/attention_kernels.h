// The two CPU versions of the operations of attention_ops.h. Internal to this folder.
#pragma once

#include "core/kernels/matmul_values.h"
#include "runtime/attention/attention_ops.h"

namespace tokenferry {

namespace attention_reference {
void Rotate(const RopeArgs& args);
void CacheWrite(const CacheWriteArgs& args);
void AbsorbQuery(const AbsorbQueryArgs& args);
void LatentAttention(const LatentAttentionArgs& args);
void ExpandValue(const ExpandValueArgs& args);
void GroupedAttention(const GroupedAttentionArgs& args);
}  // namespace attention_reference

namespace attention_cpu {
void Rotate(const RopeArgs& args, CpuContext& context);
void CacheWrite(const CacheWriteArgs& args, CpuContext& context);
void AbsorbQuery(const AbsorbQueryArgs& args, CpuContext& context);
void LatentAttention(const LatentAttentionArgs& args, CpuContext& context);
void ExpandValue(const ExpandValueArgs& args, CpuContext& context);
void GroupedAttention(const GroupedAttentionArgs& args, CpuContext& context);
}  // namespace attention_cpu

// Element offset of the cache row of (seq, position).
TF_HOST_DEVICE inline int64_t CacheRow(const CacheView& cache, int64_t seq, int64_t position) {
  const int64_t block = cache.block_table[seq * cache.max_blocks + position / kCacheBlockTokens];
  return (block * kCacheBlockTokens + position % kCacheBlockTokens) * (cache.first + cache.second);
}

// The two values of a head that turn together as pair i.
TF_HOST_DEVICE inline int32_t RopeFirst(RopeLayout layout, int32_t i) {
  return layout == RopeLayout::kInterleaved ? 2 * i : i;
}
TF_HOST_DEVICE inline int32_t RopeSecond(RopeLayout layout, int32_t i, int32_t dim) {
  return layout == RopeLayout::kInterleaved ? 2 * i + 1 : i + dim / 2;
}

// Queries as they enter a product: rounded to bf16 in kBF16.
inline void CopyRounded(const float* x, int64_t size, Compute compute, float* out) {
  for (int64_t i = 0; i < size; ++i) out[i] = compute == Compute::kF32 ? x[i] : RoundToBF16(x[i]);
}

// Token t's part of the two operations that only move and rotate: the same code in both versions.
void RotateToken(const RopeArgs& args, int64_t t);
void WriteToken(const CacheWriteArgs& args, int64_t t);

}  // namespace tokenferry

// The two CPU versions of the operations of attention_ops.h. Internal to this folder.
#pragma once

#include "runtime/attention/attention_ops.h"

namespace tokenferry {

namespace attention_reference {
void RopeInterleaved(const RopeArgs& args);
void CacheWrite(const CacheWriteArgs& args);
void AbsorbQuery(const AbsorbQueryArgs& args);
void LatentAttention(const LatentAttentionArgs& args);
void ExpandValue(const ExpandValueArgs& args);
}  // namespace attention_reference

namespace attention_cpu {
void RopeInterleaved(const RopeArgs& args, CpuContext& context);
void CacheWrite(const CacheWriteArgs& args, CpuContext& context);
void AbsorbQuery(const AbsorbQueryArgs& args, CpuContext& context);
void LatentAttention(const LatentAttentionArgs& args, CpuContext& context);
void ExpandValue(const ExpandValueArgs& args, CpuContext& context);
}  // namespace attention_cpu

// Element offset of the cache row of (seq, position).
TF_HOST_DEVICE inline int64_t CacheRow(const LatentCacheView& cache, int64_t seq, int64_t position) {
  const int64_t block = cache.block_table[seq * cache.max_blocks + position / kCacheBlockTokens];
  return (block * kCacheBlockTokens + position % kCacheBlockTokens) * (cache.latent + cache.rope);
}

// Token t's part of the two operations that only move and rotate: the same code in both versions.
void RotateToken(const RopeArgs& args, int64_t t);
void WriteToken(const CacheWriteArgs& args, int64_t t);

}  // namespace tokenferry

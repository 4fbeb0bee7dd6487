// The KV cache of one rank: memory in blocks of kCacheBlockTokens tokens.
#pragma once

#include <cstdint>
#include <vector>

#include "core/device/device.h"
#include "core/status.h"
#include "runtime/attention/attention_ops.h"

namespace tokenferry {

// Values in the two parts of a token's row in one layer (CacheView).
struct CacheRowSizes {
  int64_t first = 0, second = 0;
};

struct KvCacheOptions {
  std::vector<CacheRowSizes> layers;  // by layer
  DType dtype = DType::kBF16;         // or kF32
  int64_t num_blocks = 0;             // of kCacheBlockTokens tokens; a block spans all layers
};

// Memory only: BlockCache (runtime/engine) knows who holds which block. A block may be given to a new sequence while
// work that reads it for an old one is still enqueued on the stream that will also write it. Move-only. Not
// thread-safe. The Device must outlive it.
class KvCache {
 public:
  // InvalidArgument for options that make no cache; ResourceExhausted when the device has no room for it.
  static absl::StatusOr<KvCache> Create(Device& device, const KvCacheOptions& options);

  // Bytes that one token takes in all layers.
  static int64_t BytesPerToken(const KvCacheOptions& options);

  // `block_table` [num_seqs, max_blocks] is in device memory; -1 behind a sequence's last block.
  CacheView Layer(int64_t layer, const int32_t* block_table, int64_t max_blocks) const;

  const KvCacheOptions& options() const { return options_; }
  int64_t num_bytes() const { return options_.num_blocks * kCacheBlockTokens * BytesPerToken(options_); }

 private:
  KvCache() = default;

  KvCacheOptions options_;
  std::vector<Buffer> layers_;
};

}  // namespace tokenferry

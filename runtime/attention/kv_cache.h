// What one rank keeps of its sequences: keys and values in blocks of kCacheBlockTokens tokens, and the states of layers
// that have a state instead, one per running sequence.
#pragma once

#include <cstdint>
#include <vector>

#include "core/device/device.h"
#include "core/status.h"
#include "runtime/attention/attention_ops.h"
#include "runtime/attention/gated_delta.h"

namespace tokenferry {

// Values that one layer keeps: of a token in the two parts of its row (CacheView) and, apart from these, in the key of
// an indexer; or of a sequence (StateView).
struct CacheSizes {
  int64_t first = 0, second = 0;
  int64_t state = 0;
  int64_t index = 0;

  int64_t of_token() const { return first + second + index; }
};

struct KvCacheOptions {
  std::vector<CacheSizes> layers;  // by layer
  DType dtype = DType::kBF16;      // of rows, or kF32; states are f32
  int64_t num_blocks = 0;          // of kCacheBlockTokens tokens; a block spans all layers
  int64_t num_states = 0;          // sequences that run at once; a state spans all layers
};

// Memory only: the scheduler (runtime/engine) knows who holds which block and which state. Either may be given to a new
// sequence while work that reads it for an old one is still enqueued on the stream that will also write it. Move-only.
// Not thread-safe. The Device must outlive it.
class KvCache {
 public:
  // InvalidArgument for options that make no cache; ResourceExhausted when the device has no room for it.
  static absl::StatusOr<KvCache> Create(Device& device, const KvCacheOptions& options);

  // Bytes that one token, and one sequence besides, takes in all layers; and what Create allocates.
  static int64_t BytesPerToken(const KvCacheOptions& options);
  static int64_t BytesPerState(const KvCacheOptions& options);
  static int64_t NumBytes(const KvCacheOptions& options);

  // `block_table` [num_seqs, max_blocks] is in device memory; -1 behind a sequence's last block.
  CacheView Layer(int64_t layer, const int32_t* block_table, int64_t max_blocks) const;
  // The keys of a layer's indexer, rows of one part; 0 values: it has none.
  CacheView IndexKeys(int64_t layer, const int32_t* block_table, int64_t max_blocks) const;
  // Of a layer with states. `slots` [num_seqs] is in device memory.
  StateView State(int64_t layer, const int32_t* slots) const;

  const KvCacheOptions& options() const { return options_; }
  int64_t num_bytes() const { return NumBytes(options_); }

 private:
  KvCache() = default;

  KvCacheOptions options_;
  std::vector<Buffer> layers_;
};

}  // namespace tokenferry

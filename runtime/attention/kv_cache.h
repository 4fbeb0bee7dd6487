// The latent cache of one rank: memory in blocks of kCacheBlockTokens tokens, and who holds which block.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "core/device/device.h"
#include "core/ids.h"
#include "core/status.h"
#include "runtime/attention/attention_ops.h"

namespace tokenferry {

using SequenceId = StrongId<struct SequenceTag>;  // a sequence in one cache; reused after Free

struct KvCacheOptions {
  int64_t num_layers = 0;
  int64_t latent = 0;          // r: kv_lora_rank
  int64_t rope = 0;            // p: qk_rope_head_dim
  DType dtype = DType::kBF16;  // or kF32
  int64_t num_blocks = 0;      // of kCacheBlockTokens tokens; a block spans all layers
};

// Block tables of several sequences as the operations read them, to be uploaded by the caller.
struct BlockTables {
  std::vector<int32_t> rows;  // [num_seqs, max_blocks], -1 behind a sequence's last block
  int64_t max_blocks = 0;
};

// Move-only. Not thread-safe. The Device must outlive it. All methods but Create are host work: they enqueue nothing,
// so a block may be given to a new sequence while work that reads it for an old one is still enqueued on the stream
// that will also write it.
class KvCache {
 public:
  // InvalidArgument for options that make no cache; ResourceExhausted when the device has no room for it.
  static absl::StatusOr<KvCache> Create(Device& device, const KvCacheOptions& options);

  // Bytes that one token takes in all layers.
  static int64_t BytesPerToken(const KvCacheOptions& options);

  // A new sequence with room for positions 0 .. num_tokens - 1 (0 is fine).
  absl::StatusOr<SequenceId> AddSequence(int64_t num_tokens);
  // Makes room for positions up to num_tokens - 1; never shrinks. On error nothing has changed.
  // Both: ResourceExhausted, with the numbers, when there are not enough free blocks.
  absl::Status Extend(SequenceId id, int64_t num_tokens);
  // Returns the sequence's blocks. Their contents are no longer defined.
  void Free(SequenceId id);

  BlockTables Tables(absl::Span<const SequenceId> sequences) const;
  absl::Span<const int32_t> Blocks(SequenceId id) const;

  // `block_table` is a Tables() result in device memory.
  LatentCacheView Layer(int64_t layer, const int32_t* block_table, int64_t max_blocks) const;

  const KvCacheOptions& options() const { return options_; }
  int64_t num_free_blocks() const { return static_cast<int64_t>(free_.size()); }
  int64_t num_sequences() const { return num_sequences_; }

 private:
  struct Sequence {
    bool live = false;
    std::vector<int32_t> blocks;
  };
  KvCache() = default;
  const Sequence& Live(SequenceId id) const;

  KvCacheOptions options_;
  std::vector<Buffer> layers_;
  std::vector<int32_t> free_;        // blocks nobody holds; the last is given out next
  std::vector<Sequence> sequences_;  // by SequenceId
  std::vector<int32_t> free_ids_;
  int64_t num_sequences_ = 0;
};

}  // namespace tokenferry

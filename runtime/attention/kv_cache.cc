#include "runtime/attention/kv_cache.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "core/check.h"

namespace tokenferry {
namespace {

int64_t NumBlocksFor(int64_t num_tokens) {
  return num_tokens / kCacheBlockTokens + (num_tokens % kCacheBlockTokens != 0 ? 1 : 0);
}

// Bytes of one layer's buffer.
absl::StatusOr<int64_t> LayerBytes(const KvCacheOptions& o) {
  if (o.num_layers <= 0 || o.latent <= 0 || o.rope < 0 || o.num_blocks <= 0) {
    return absl::InvalidArgumentError(absl::StrCat("kv cache: ", o.num_layers, " layers, latent ", o.latent, ", rope ",
                                                   o.rope, ", ", o.num_blocks,
                                                   " blocks: all but rope must be positive"));
  }
  if (o.dtype != DType::kF32 && o.dtype != DType::kBF16) {
    return absl::InvalidArgumentError(absl::StrCat("kv cache: dtype ", DTypeName(o.dtype), " is neither F32 nor BF16"));
  }
  int64_t width, num_bytes, total;
  if (o.num_blocks > std::numeric_limits<int32_t>::max() || __builtin_add_overflow(o.latent, o.rope, &width) ||
      __builtin_mul_overflow(o.num_blocks, kCacheBlockTokens * DTypeBytes(o.dtype), &num_bytes) ||
      __builtin_mul_overflow(num_bytes, width, &num_bytes) || __builtin_mul_overflow(num_bytes, o.num_layers, &total)) {
    return absl::InvalidArgumentError(absl::StrCat("kv cache: ", o.num_layers, " layers of ", o.num_blocks,
                                                   " blocks of ", kCacheBlockTokens, " rows of ", o.latent, " + ",
                                                   o.rope, " are too large"));
  }
  return num_bytes;
}

}  // namespace

absl::StatusOr<KvCache> KvCache::Create(Device& device, const KvCacheOptions& options) {
  TF_ASSIGN_OR_RETURN(const int64_t num_bytes, LayerBytes(options));
  KvCache cache;
  cache.options_ = options;
  for (int64_t layer = 0; layer < options.num_layers; ++layer) {
    TF_ASSIGN_OR_RETURN(Buffer buffer,
                        device.Allocate(num_bytes, MemoryKind::kDevice, absl::StrCat("kv cache, layer ", layer)));
    cache.layers_.push_back(std::move(buffer));
  }
  for (int64_t block = options.num_blocks - 1; block >= 0; --block) cache.free_.push_back(static_cast<int32_t>(block));
  return cache;
}

int64_t KvCache::BytesPerToken(const KvCacheOptions& options) {
  return options.num_layers * (options.latent + options.rope) * DTypeBytes(options.dtype);
}

absl::StatusOr<SequenceId> KvCache::AddSequence(int64_t num_tokens) {
  SequenceId id;
  if (free_ids_.empty()) {
    id = SequenceId(static_cast<int32_t>(sequences_.size()));
    sequences_.emplace_back();
  } else {
    id = SequenceId(free_ids_.back());
    free_ids_.pop_back();
  }
  sequences_[id.value].live = true;
  ++num_sequences_;
  if (absl::Status status = Extend(id, num_tokens); !status.ok()) {
    Free(id);
    return status;
  }
  return id;
}

absl::Status KvCache::Extend(SequenceId id, int64_t num_tokens) {
  TF_CHECK_GE(num_tokens, 0);
  Live(id);
  std::vector<int32_t>& blocks = sequences_[id.value].blocks;
  const int64_t needed = NumBlocksFor(num_tokens) - static_cast<int64_t>(blocks.size());
  if (needed <= 0) return absl::OkStatus();
  if (needed > num_free_blocks()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("kv cache: sequence of ", num_tokens, " tokens needs ", needed, " more blocks of ",
                     kCacheBlockTokens, " tokens, ", num_free_blocks(), " of ", options_.num_blocks, " are free, ",
                     num_sequences_, " sequences hold the others: wait for one to end, or give the cache more memory"));
  }
  for (int64_t i = 0; i < needed; ++i) {
    blocks.push_back(free_.back());
    free_.pop_back();
  }
  return absl::OkStatus();
}

void KvCache::Free(SequenceId id) {
  Live(id);
  Sequence& sequence = sequences_[id.value];
  free_.insert(free_.end(), sequence.blocks.rbegin(), sequence.blocks.rend());
  sequence = Sequence();
  free_ids_.push_back(id.value);
  --num_sequences_;
}

BlockTables KvCache::Tables(absl::Span<const SequenceId> sequences) const {
  BlockTables tables;
  for (SequenceId id : sequences)
    tables.max_blocks = std::max(tables.max_blocks, static_cast<int64_t>(Live(id).blocks.size()));
  tables.rows.assign(sequences.size() * tables.max_blocks, -1);
  for (size_t s = 0; s < sequences.size(); ++s) {
    const std::vector<int32_t>& blocks = Live(sequences[s]).blocks;
    std::copy(blocks.begin(), blocks.end(), tables.rows.begin() + s * tables.max_blocks);
  }
  return tables;
}

absl::Span<const int32_t> KvCache::Blocks(SequenceId id) const { return Live(id).blocks; }

LatentCacheView KvCache::Layer(int64_t layer, const int32_t* block_table, int64_t max_blocks) const {
  TF_CHECK_GE(layer, 0);
  TF_CHECK_LT(layer, options_.num_layers);
  return {.data = layers_[layer].data(),
          .dtype = options_.dtype,
          .latent = options_.latent,
          .rope = options_.rope,
          .block_table = block_table,
          .max_blocks = max_blocks};
}

const KvCache::Sequence& KvCache::Live(SequenceId id) const {
  TF_CHECK_GE(id.value, 0);
  TF_CHECK_LT(id.value, static_cast<int64_t>(sequences_.size()));
  TF_CHECK(sequences_[id.value].live);
  return sequences_[id.value];
}

}  // namespace tokenferry

#include "runtime/attention/kv_cache.h"

#include <limits>
#include <utility>

#include "core/check.h"

namespace tokenferry {
namespace {

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
  return cache;
}

int64_t KvCache::BytesPerToken(const KvCacheOptions& options) {
  return options.num_layers * (options.latent + options.rope) * DTypeBytes(options.dtype);
}

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

}  // namespace tokenferry

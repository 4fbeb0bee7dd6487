#include "runtime/attention/kv_cache.h"

#include <limits>
#include <utility>

#include "core/check.h"

namespace tokenferry {
namespace {

// Bytes of a buffer of states.
absl::StatusOr<int64_t> StateBytes(const KvCacheOptions& o, const CacheSizes& layer) {
  int64_t num_bytes;
  if (layer.of_token() != 0 || layer.state < 0 || o.num_states <= 0 ||
      o.num_states > std::numeric_limits<int32_t>::max() ||
      __builtin_mul_overflow(layer.state, o.num_states * static_cast<int64_t>(sizeof(float)), &num_bytes)) {
    return absl::InvalidArgumentError(absl::StrCat("kv cache: ", o.num_states, " states of ", layer.state,
                                                   " values, with rows of ", layer.first, " + ", layer.second,
                                                   ": there must be states, of a size, and no rows beside them"));
  }
  return num_bytes;
}

// Bytes of one layer's buffer.
absl::StatusOr<int64_t> LayerBytes(const KvCacheOptions& o, const CacheSizes& row) {
  if (row.state != 0) return StateBytes(o, row);
  if (row.first <= 0 || row.second < 0 || row.index < 0 || o.num_blocks <= 0) {
    return absl::InvalidArgumentError(absl::StrCat("kv cache: rows of ", row.first, " + ", row.second, " values, ",
                                                   o.num_blocks, " blocks: all but the second must be positive"));
  }
  int64_t width, num_bytes;
  if (o.num_blocks > std::numeric_limits<int32_t>::max() || __builtin_add_overflow(row.first, row.second, &width) ||
      __builtin_add_overflow(width, row.index, &width) ||
      __builtin_mul_overflow(o.num_blocks, kCacheBlockTokens * DTypeBytes(o.dtype), &num_bytes) ||
      __builtin_mul_overflow(num_bytes, width, &num_bytes)) {
    return absl::InvalidArgumentError(absl::StrCat("kv cache: ", o.num_blocks, " blocks of ", kCacheBlockTokens,
                                                   " rows of ", row.first, " + ", row.second, " are too large"));
  }
  return num_bytes;
}

// Of every layer; the sum fits into int64 too.
absl::StatusOr<std::vector<int64_t>> BytesPerLayer(const KvCacheOptions& o) {
  if (o.layers.empty()) return absl::InvalidArgumentError("kv cache: 0 layers");
  if (o.dtype != DType::kF32 && o.dtype != DType::kBF16) {
    return absl::InvalidArgumentError(absl::StrCat("kv cache: dtype ", DTypeName(o.dtype), " is neither F32 nor BF16"));
  }
  std::vector<int64_t> bytes;
  int64_t total = 0;
  for (const CacheSizes& row : o.layers) {
    TF_ASSIGN_OR_RETURN(const int64_t num_bytes, LayerBytes(o, row));
    if (__builtin_add_overflow(total, num_bytes, &total)) {
      return absl::InvalidArgumentError(
          absl::StrCat("kv cache: ", o.layers.size(), " layers of ", num_bytes, " bytes are too large"));
    }
    bytes.push_back(num_bytes);
  }
  return bytes;
}

}  // namespace

absl::StatusOr<KvCache> KvCache::Create(Device& device, const KvCacheOptions& options) {
  TF_ASSIGN_OR_RETURN(const std::vector<int64_t> bytes, BytesPerLayer(options));
  KvCache cache;
  cache.options_ = options;
  for (size_t layer = 0; layer < bytes.size(); ++layer) {
    TF_ASSIGN_OR_RETURN(Buffer buffer,
                        device.Allocate(bytes[layer], MemoryKind::kDevice, absl::StrCat("kv cache, layer ", layer)));
    cache.layers_.push_back(std::move(buffer));
  }
  return cache;
}

int64_t KvCache::BytesPerToken(const KvCacheOptions& options) {
  int64_t num_values = 0;
  for (const CacheSizes& row : options.layers) num_values += row.of_token();
  return num_values * DTypeBytes(options.dtype);
}

int64_t KvCache::BytesPerState(const KvCacheOptions& options) {
  int64_t num_values = 0;
  for (const CacheSizes& layer : options.layers) num_values += layer.state;
  return num_values * static_cast<int64_t>(sizeof(float));
}

int64_t KvCache::NumBytes(const KvCacheOptions& options) {
  return options.num_blocks * kCacheBlockTokens * BytesPerToken(options) + options.num_states * BytesPerState(options);
}

CacheView KvCache::Layer(int64_t layer, const int32_t* block_table, int64_t max_blocks) const {
  TF_CHECK_GE(layer, 0);
  TF_CHECK_LT(layer, static_cast<int64_t>(layers_.size()));
  return {.data = layers_[layer].data(),
          .dtype = options_.dtype,
          .first = options_.layers[layer].first,
          .second = options_.layers[layer].second,
          .block_table = block_table,
          .max_blocks = max_blocks};
}

CacheView KvCache::IndexKeys(int64_t layer, const int32_t* block_table, int64_t max_blocks) const {
  CacheView view = Layer(layer, block_table, max_blocks);
  const int64_t num_rows = options_.num_blocks * kCacheBlockTokens;
  view.data = static_cast<uint8_t*>(view.data) + num_rows * (view.first + view.second) * DTypeBytes(view.dtype);
  view.first = options_.layers[layer].index;
  view.second = 0;
  return view;
}

StateView KvCache::State(int64_t layer, const int32_t* slots) const {
  TF_CHECK_GE(layer, 0);
  TF_CHECK_LT(layer, static_cast<int64_t>(layers_.size()));
  return {.data = layers_[layer].as<float>(), .size = options_.layers[layer].state, .slots = slots};
}

}  // namespace tokenferry

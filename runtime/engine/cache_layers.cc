#include "runtime/engine/cache_layers.h"

namespace tokenferry {
namespace {

CacheSizes RowOf(const LayerSpec& layer) {
  const AttentionSpec& a = layer.attention;
  return {a.cache_first(), a.cache_second(), a.state_size(), a.indexer.cache_size()};
}

}  // namespace

std::vector<CacheSizes> CacheLayersOf(const ModelSpec& model) {
  std::vector<CacheSizes> rows;
  for (int64_t l = model.first_layer(Stack::kDecoder); l < model.num_layers(); ++l)
    rows.push_back(RowOf(model.layers[l]));
  if (!model.has_encoder()) return rows;
  rows.insert(rows.end(), rows.begin(), rows.begin() + model.num_layers(Stack::kDecoder));
  rows.push_back(RowOf(model.layers[0]));
  return rows;
}

int64_t OwnCacheLayer(const ModelSpec& model, int64_t layer) {
  const int64_t first = model.first_layer(Stack::kDecoder);
  return layer < first ? 2 * model.num_layers(Stack::kDecoder) : layer - first;
}

int64_t CrossCacheLayer(const ModelSpec& model, int64_t layer) {
  return model.num_layers(Stack::kDecoder) + layer - model.first_layer(Stack::kDecoder);
}

}  // namespace tokenferry

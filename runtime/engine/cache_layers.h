// Which of a KvCache's layers belong to a layer of the model. A decoder's layers have one each, in their order; those
// that attend to an encoder another one, for the keys and values of the encoder's output. An encoder's layers share the
// last: its input passes through them in one step, after which nobody looks at their keys.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/attention/kv_cache.h"
#include "runtime/model/model_spec.h"

namespace tokenferry {

std::vector<CacheSizes> CacheLayersOf(const ModelSpec& model);
int64_t OwnCacheLayer(const ModelSpec& model, int64_t layer);
int64_t CrossCacheLayer(const ModelSpec& model, int64_t layer);  // of a layer that attends to an encoder

}  // namespace tokenferry

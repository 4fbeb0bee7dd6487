// The relative biases of a model's layers, as attention reads them.
#pragma once

#include <vector>

#include "core/device/device.h"
#include "core/status.h"
#include "runtime/attention/attention_ops.h"
#include "runtime/model/model_spec.h"
#include "runtime/model/weights.h"

namespace tokenferry {

// Device memory; the device must outlive it.
class RelativeBiasTables {
 public:
  // Of the tables that layers have (AttentionSpec::has_relative_table). Synchronizes.
  static absl::StatusOr<RelativeBiasTables> Create(Stream& stream, const ModelSpec& model, const ModelWeights& weights);

  RelativeBias Of(int64_t layer) const { return by_layer_[layer]; }  // none: values null

 private:
  std::vector<RelativeBias> by_layer_;
  std::vector<Buffer> values_;
};

}  // namespace tokenferry

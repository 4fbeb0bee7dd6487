#include "runtime/engine/relative_bias_tables.h"

#include <utility>

#include "core/check.h"
#include "runtime/attention/relative_bias.h"

namespace tokenferry {

absl::StatusOr<RelativeBiasTables> RelativeBiasTables::Create(Stream& stream, const ModelSpec& model,
                                                              const ModelWeights& weights) {
  RelativeBiasTables tables;
  RelativeBias current;
  for (int64_t l = 0; l < model.num_layers(); ++l) {
    const AttentionSpec& a = model.layers[l].attention;
    if (a.has_relative_table) {
      std::vector<float> table(a.relative.num_buckets * a.num_heads);
      stream.CopyToHost(table.data(), weights.layers[l].vector(Role::kRelativeBias), table.size() * sizeof(float));
      TF_RETURN_IF_ERROR(stream.Synchronize());
      const std::vector<float> values = RelativeBiasValues(a.relative, table, a.num_heads);
      TF_ASSIGN_OR_RETURN(Buffer buffer, stream.device().Allocate(values.size() * sizeof(float), MemoryKind::kDevice,
                                                                  "relative position bias"));
      stream.CopyToDevice(buffer.data(), values.data(), buffer.num_bytes());
      TF_RETURN_IF_ERROR(stream.Synchronize());
      current = {buffer.as<float>(), a.relative.max_distance};
      tables.values_.push_back(std::move(buffer));
    }
    TF_CHECK(a.relative.num_buckets == 0 || current.values != nullptr);
    tables.by_layer_.push_back(a.relative.num_buckets == 0 ? RelativeBias() : current);
  }
  return tables;
}

}  // namespace tokenferry

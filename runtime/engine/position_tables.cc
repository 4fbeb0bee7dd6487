#include "runtime/engine/position_tables.h"

#include <vector>

#include "core/check.h"
#include "runtime/attention/attention_ops.h"

namespace tokenferry {
namespace {

absl::StatusOr<Buffer> Upload(Stream& stream, const std::vector<float>& values, absl::string_view label) {
  TF_ASSIGN_OR_RETURN(Buffer buffer,
                      stream.device().Allocate(values.size() * sizeof(float), MemoryKind::kDevice, label));
  stream.CopyToDevice(buffer.data(), values.data(), buffer.num_bytes());
  TF_RETURN_IF_ERROR(stream.Synchronize());
  return buffer;
}

// That of all layers that have one: families give them the same.
Temperature TemperatureOf(const ModelSpec& model) {
  Temperature temperature;
  for (const LayerSpec& layer : model.layers) {
    const Temperature& of_layer = layer.attention.temperature;
    if (of_layer.scale == 0) continue;
    TF_CHECK(temperature.scale == 0 || temperature == of_layer);
    temperature = of_layer;
  }
  return temperature;
}

}  // namespace

absl::StatusOr<PositionTables> PositionTables::Create(Stream& stream, const ModelSpec& model, int64_t num_positions) {
  PositionTables tables;
  tables.rope_config_ = model.rope;
  if (model.rope.dim != 0) {
    tables.rope_config_.max_position = num_positions;
    TF_ASSIGN_OR_RETURN(const std::vector<float> table, RopeTable(tables.rope_config_));
    TF_ASSIGN_OR_RETURN(tables.rope_, Upload(stream, table, "rope table"));
  }
  if (const Temperature t = TemperatureOf(model); t.scale != 0) {
    TF_ASSIGN_OR_RETURN(tables.temperature_factors_,
                        Upload(stream, TemperatureFactors(t.scale, t.period, num_positions), "attention temperatures"));
  }
  return tables;
}

}  // namespace tokenferry

// What follows from positions alone, computed by the host and kept on the device: so that every device has the same
// numbers, since no two of them have the same sine and logarithm.
#pragma once

#include "core/device/device.h"
#include "core/status.h"
#include "runtime/attention/rope.h"
#include "runtime/model/model_spec.h"

namespace tokenferry {

// Device memory; the device must outlive it.
class PositionTables {
 public:
  // For positions below `num_positions`. Synchronizes.
  static absl::StatusOr<PositionTables> Create(Stream& stream, const ModelSpec& model, int64_t num_positions);

  const RopeConfig& rope_config() const { return rope_config_; }                         // of the table
  const float* rope() const { return rope_.as<float>(); }                                // null: no layer rotates
  const float* temperature_factors() const { return temperature_factors_.as<float>(); }  // null: no layer has any

 private:
  RopeConfig rope_config_;
  Buffer rope_, temperature_factors_;
};

}  // namespace tokenferry

// What stands between the projections of a gated feed-forward network.
#pragma once

#include <cstdint>

namespace tokenferry {

struct GatedActivation {
  enum class Kind : uint8_t {
    kSilu,           // silu(gate) * up, silu(z) = z / (1 + exp(-z))
    kClampedSwiglu,  // (u + 1) * g / (1 + exp(-alpha * g)), g = min(gate, limit), u = up within +-limit (gpt-oss)
  };
  Kind kind = Kind::kSilu;
  float limit = 0, alpha = 0;

  friend bool operator==(const GatedActivation&, const GatedActivation&) = default;
};

}  // namespace tokenferry

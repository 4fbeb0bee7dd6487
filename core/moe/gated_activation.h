// What stands between the projections of a feed-forward network.
#pragma once

#include <cstdint>

namespace tokenferry {

struct GatedActivation {
  enum class Kind : uint8_t {
    kSilu,           // silu(gate) * up, silu(z) = z / (1 + exp(-z))
    kRelu,           // max(gate, 0): a network without gates, whose one projection takes the place of `gate` (T5)
    kClampedSwiglu,  // (u + 1) * g / (1 + exp(-alpha * g)), g = min(gate, limit), u = up within +-limit (gpt-oss)
  };
  Kind kind = Kind::kSilu;
  float limit = 0, alpha = 0;

  bool has_up() const { return kind != Kind::kRelu; }
  friend bool operator==(const GatedActivation&, const GatedActivation&) = default;
};

}  // namespace tokenferry

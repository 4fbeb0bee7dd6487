// A choice of the user; by itself, so that flags need not include the engine.
#pragma once

#include <cstdint>

namespace tokenferry {

// What a rank computes while rows travel; the bits are the same.
enum class Overlap : uint8_t {
  kOff,
  kShared,    // the shared expert
  kTwoBatch,  // the shared expert, and the other half of the step's tokens: attention and experts of one half while the
              // rows of the other travel
};

}  // namespace tokenferry

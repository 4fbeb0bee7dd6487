// Where in the program ranks move something or wait for each other.
#pragma once

#include <cstdint>
#include <string>

#include "core/status.h"

namespace tokenferry {

// How soon a wait is expected to end. kPatient: nothing may come for a long time, and to notice it a few milliseconds
// late does not matter; the waiting rank takes next to nothing of its core.
enum class WaitPace : uint8_t { kPrompt, kPatient };

// For messages, and for faults that tests inject. `phase` points to a string literal.
struct CallSite {
  const char* phase = "?";  // "plan counts", "dispatch rows", "combine rows", "step plan", ...
  int layer = -1;           // model layer, -1 outside layers
  int64_t step = -1;        // engine step, -1 outside steps
  WaitPace pace = WaitPace::kPrompt;
};

// "layer 3, combine rows, step 17"
std::string ToString(const CallSite& site);
inline absl::Status Annotate(const absl::Status& status, const CallSite& site) {
  return status.ok() ? status : Annotate(status, ToString(site));
}

}  // namespace tokenferry

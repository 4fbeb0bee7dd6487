// What the front counts of requests.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace tokenferry {

// Where the parts of the front report what happens. Used on the front's thread.
class FrontMetrics {
 public:
  virtual ~FrontMetrics() = default;
  virtual void OnStart(int64_t prompt_tokens) = 0;  // a request that is valid
  virtual void OnFirstToken(double seconds_since_start) = 0;
  virtual void OnNextToken(double seconds_since_last) = 0;  // of the same sequence
  virtual void OnToken() = 0;
  // `outcome`: "success", "error", "abort" (the client has gone).
  virtual void OnEnd(absl::string_view outcome, double seconds, int64_t completion_tokens) = 0;
  virtual void OnIgnoredFields(int64_t count) = 0;
};

}  // namespace tokenferry

// How many prompt tokens a step takes, so that those who decode beside them need not wait long.
#pragma once

#include <cstdint>

#include "absl/time/time.h"

namespace tokenferry {

class PrefillBudget {
 public:
  // At most `max_tokens` per rank and step. With a finite `step_target`, as many as steps of that length have had time
  // for lately; the first steps take few, since nothing is known yet.
  PrefillBudget(int64_t max_tokens, absl::Duration step_target);

  int64_t tokens_per_rank() const { return tokens_; }
  // What a step took whose busiest rank had so many tokens, `num_decode` of them of sequences that decode.
  void Observe(int64_t num_tokens, int64_t num_decode, absl::Duration took);

 private:
  const int64_t max_tokens_;
  const absl::Duration target_;
  int64_t tokens_;
};

}  // namespace tokenferry

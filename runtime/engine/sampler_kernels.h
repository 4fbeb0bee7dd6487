// The loops over the vocabulary in which sampling spends its time, one set per instruction set. All sets give the same
// bits: every element is on its own, and products are rounded before they are added, so no set needs fused
// multiply-adds.
#pragma once

#include <cstdint>

#include "core/host/isa.h"

namespace tokenferry {

struct LogitScan {
  double largest = 0;              // of the logits
  bool all_below_infinity = true;  // false: one is NaN or +infinity, and `largest` means nothing
};

struct SamplerKernels {
  // scores[i] = logits[i].
  LogitScan (*widen)(const float* logits, int64_t size, double* scores);
  // Of size >= 1 scores without NaN.
  double (*largest)(const double* scores, int64_t size);
  // weights[i] = exp((scores[i] - largest) / temperature), where no score exceeds `largest`, which is finite. Within 4
  // ulp of the exact value; 0 below e^-708.
  void (*exp_scores)(const double* scores, int64_t size, double largest, double temperature, double* weights);
};

const SamplerKernels& SamplerKernelsFor(Isa isa);

}  // namespace tokenferry

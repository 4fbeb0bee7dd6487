// The score of a group of experts, for the reference, the CPU's and the GPU's routers alike.
#pragma once

#include "core/formats/scalar.h"
#include "experts/router/router.h"

namespace tokenferry {

// Of the experts' choice scores [size], size >= 1: the largest, or the sum of the two largest where there are two.
TF_HOST_DEVICE inline float GroupScoreOf(GroupScore kind, const float* choice, int32_t size) {
  float first = choice[0], second = 0.0f;
  bool have_second = false;
  for (int32_t i = 1; i < size; ++i) {
    if (choice[i] > first) {
      second = first;
      first = choice[i];
      have_second = true;
    } else if (!have_second || choice[i] > second) {
      second = choice[i];
      have_second = true;
    }
  }
  return kind == GroupScore::kSumOfTwoLargest && have_second ? first + second : first;
}

}  // namespace tokenferry

// Small operations that show when, how often and in which order work runs.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "core/device/device.h"

namespace tokenferry {

// x[i] = x[i] * factor + addend; not commutative, so that the order shows in the result. x is device memory.
struct MulAddArgs {
  uint32_t* x = nullptr;
  int64_t size = 0;
  uint32_t factor = 1;
  uint32_t addend = 0;
  std::atomic<int>* num_runs = nullptr;  // counted up by each run, when given
};

inline void MulAddRange(const MulAddArgs& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) a.x[i] = a.x[i] * a.factor + a.addend;
}

inline void CountRun(const MulAddArgs& a) {
  if (a.num_runs != nullptr) a.num_runs->fetch_add(1);
}

inline constexpr Op<MulAddArgs> kMulAdd = {
    .name = "mul_add",
    .reference =
        [](const MulAddArgs& a) {
          CountRun(a);
          MulAddRange(a, 0, a.size);
        },
    .cpu =
        [](const MulAddArgs& a, CpuContext& context) {
          CountRun(a);
          constexpr int64_t kChunk = 1000;
          context.pool.ParallelFor((a.size + kChunk - 1) / kChunk, [&](int64_t task, int) {
            MulAddRange(a, task * kChunk, std::min(a.size, (task + 1) * kChunk));
          });
        },
};

}  // namespace tokenferry

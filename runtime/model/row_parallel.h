// How the CPU kernels of this folder share rows among threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/device/device.h"

namespace tokenferry {

// Runs body(begin, end) over disjoint ranges that cover [0, num_rows), a range being worth waking a thread for.
template <class Body>
void ParallelRows(CpuContext& context, int64_t num_rows, int64_t cols, Body body) {
  constexpr int64_t kElementsPerTask = 16384;
  const int64_t rows_per_task = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, cols));
  context.pool.ParallelFor((num_rows + rows_per_task - 1) / rows_per_task, [&](int64_t task, int) {
    body(task * rows_per_task, std::min(num_rows, (task + 1) * rows_per_task));
  });
}

// Working memory of the calling thread, 64-byte aligned, contents undefined: grown when needed and kept. One user at a
// time: a second call may move it.
inline float* ThreadScratch(int64_t num_floats) {
  static thread_local std::vector<float> memory;
  constexpr int64_t kAlign = 64 / sizeof(float);
  if (static_cast<int64_t>(memory.size()) < num_floats + kAlign) memory.resize(num_floats + kAlign);
  const uintptr_t address = reinterpret_cast<uintptr_t>(memory.data());
  return reinterpret_cast<float*>((address + 63) / 64 * 64);
}

}  // namespace tokenferry

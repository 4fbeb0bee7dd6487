// How CPU kernels that work element by element share rows among threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/device/device.h"

namespace tokenferry {

// Runs body(begin, end) over disjoint ranges that cover [0, num_rows), a range being worth waking a thread for.
template <int64_t kElementsPerTask = 16384, class Body>
void ParallelRows(CpuContext& context, int64_t num_rows, int64_t cols, Body body) {
  const int64_t rows_per_task = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, cols));
  context.pool.ParallelFor((num_rows + rows_per_task - 1) / rows_per_task, [&](int64_t task, int) {
    body(task * rows_per_task, std::min(num_rows, (task + 1) * rows_per_task));
  });
}

}  // namespace tokenferry

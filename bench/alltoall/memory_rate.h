// How fast memory is while all ranks use it at once: the bound that an exchange is compared with.
#pragma once

#include <memory>

#include "bench/alltoall/alltoall_bench.h"

namespace tokenferry {

class GroupMemoryRate {
 public:
  // On CPUs a host's ranks together read `num_bytes`. A GPU copies within its memory: reads half of them, writes half.
  static absl::StatusOr<std::unique_ptr<GroupMemoryRate>> Create(const BenchContext& context, int64_t num_bytes);
  virtual ~GroupMemoryRate() = default;
  // Collective: bytes per second of all ranks together.
  virtual absl::StatusOr<double> Run() = 0;
};

}  // namespace tokenferry

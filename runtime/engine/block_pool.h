// Who holds which block of a rank's cache.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace tokenferry {

// The blocks 0 .. num_blocks - 1 of one rank's KvCache. Kept by the scheduler, which promises them to sequences; the
// rank learns of its blocks from the plan. Host memory only.
class BlockPool {
 public:
  explicit BlockPool(int64_t num_blocks);

  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }

  // `count` blocks that nobody holds; at most num_free().
  std::vector<int32_t> Take(int64_t count);
  // Blocks that Take gave out and that are used no more.
  void Return(absl::Span<const int32_t> blocks);

 private:
  std::vector<int32_t> free_;  // the last is given out next
};

}  // namespace tokenferry

#include "runtime/engine/block_pool.h"

#include "core/check.h"

namespace tokenferry {

BlockPool::BlockPool(int64_t num_blocks) {
  for (int64_t block = num_blocks - 1; block >= 0; --block) free_.push_back(static_cast<int32_t>(block));
}

std::vector<int32_t> BlockPool::Take(int64_t count) {
  TF_CHECK_GE(count, 0);
  TF_CHECK_LE(count, num_free());
  std::vector<int32_t> blocks(free_.rbegin(), free_.rbegin() + count);
  free_.resize(free_.size() - count);
  return blocks;
}

void BlockPool::Return(absl::Span<const int32_t> blocks) { free_.insert(free_.end(), blocks.rbegin(), blocks.rend()); }

}  // namespace tokenferry

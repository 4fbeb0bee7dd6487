#include "runtime/engine/block_cache.h"

#include <algorithm>
#include <utility>

#include "core/check.h"
#include "runtime/attention/attention_ops.h"

namespace tokenferry {

BlockCache::BlockCache(int64_t num_blocks) : blocks_(num_blocks) {
  for (int64_t block = num_blocks - 1; block >= 0; --block) empty_.push_back(static_cast<int32_t>(block));
}

std::vector<int32_t> BlockCache::Take(int64_t count) {
  TF_CHECK_GE(count, 0);
  TF_CHECK_LE(count, num_available());
  std::vector<int32_t> taken;
  for (int64_t i = 0; i < count; ++i) {
    if (empty_.empty()) {
      Forget(unheld_.front());
    }
    taken.push_back(empty_.back());
    empty_.pop_back();
    blocks_[taken.back()].num_holders = 1;
  }
  return taken;
}

// Of a block that nobody holds. Nobody then holds one behind it, and those were let go before it: whoever held one held
// this one too. So they have been forgotten before it.
void BlockCache::Forget(int32_t block) {
  Block& b = blocks_[block];
  TF_CHECK_EQ(b.num_followers, 0);
  unheld_.erase(b.place);
  block_per_contents_.erase(b.contents);
  if (b.contents.before != kNone) blocks_[b.contents.before].num_followers -= 1;
  b.contents = {};
  empty_.push_back(block);
}

BlockCache::Contents BlockCache::MakeContents(int32_t before, const std::string& scope,
                                              absl::Span<const int32_t> tokens) {
  TF_CHECK_EQ(static_cast<int64_t>(tokens.size()), kCacheBlockTokens);
  return {before, before == kNone ? scope : std::string(), {tokens.begin(), tokens.end()}};
}

BlockCache::Beginning BlockCache::Find(const std::string& scope, absl::Span<const int32_t> tokens,
                                       int64_t max_blocks) const {
  Beginning found;
  int32_t before = kNone;
  const int64_t most = std::min(max_blocks, static_cast<int64_t>(tokens.size()) / kCacheBlockTokens);
  for (int64_t i = 0; i < most; ++i) {
    const auto it =
        block_per_contents_.find(MakeContents(before, scope, tokens.subspan(i * kCacheBlockTokens, kCacheBlockTokens)));
    if (it == block_per_contents_.end()) break;
    before = it->second;
    found.blocks.push_back(before);
    found.num_unheld += blocks_[before].num_holders == 0 ? 1 : 0;
  }
  return found;
}

void BlockCache::Hold(absl::Span<const int32_t> blocks) {
  for (const int32_t block : blocks) {
    if (blocks_[block].num_holders++ == 0) unheld_.erase(blocks_[block].place);
  }
}

int32_t BlockCache::Fill(int32_t block, int32_t before, const std::string& scope, absl::Span<const int32_t> tokens) {
  Block& filled = blocks_[block];
  TF_CHECK_EQ(filled.num_holders, 1);
  TF_CHECK(filled.contents.tokens.empty());
  const auto [it, is_new] = block_per_contents_.try_emplace(MakeContents(before, scope, tokens), block);
  if (is_new) {
    filled.contents = it->first;
    if (before != kNone) blocks_[before].num_followers += 1;
    return block;
  }
  Hold({&it->second, 1});
  Let(block);
  return it->second;
}

void BlockCache::Let(int32_t block) {
  Block& b = blocks_[block];
  TF_CHECK_GT(b.num_holders, 0);
  if (--b.num_holders > 0) return;
  if (b.contents.tokens.empty()) {
    empty_.push_back(block);
  } else {
    b.place = unheld_.insert(unheld_.end(), block);
  }
}

void BlockCache::Release(absl::Span<const int32_t> blocks) {
  for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) Let(*block);
}

}  // namespace tokenferry

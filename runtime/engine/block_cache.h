// Who holds which block of a rank's cache, and which tokens the blocks contain, so that a sequence that begins as
// another one did need not compute its beginning again.
#pragma once

#include <cstdint>
#include <list>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"

namespace tokenferry {

// The blocks 0 .. num_blocks - 1 of one rank's KvCache. Kept by the scheduler; the rank stores what the plan says,
// where the plan says. Host memory only.
//
// A full block can be found by what it contains: its tokens, those of all blocks before it, and the scope of the
// sequence that wrote it. Contents are compared token by token; no hash is trusted. A block that nobody holds keeps its
// contents until its memory is needed: the one that was let go first is forgotten first, and of one sequence the last
// block first, so that what is found is always a whole beginning.
class BlockCache {
 public:
  explicit BlockCache(int64_t num_blocks);

  int64_t num_blocks() const { return static_cast<int64_t>(blocks_.size()); }
  int64_t num_held() const { return num_blocks() - num_available(); }
  // Blocks that nobody holds, with contents or without.
  int64_t num_available() const { return static_cast<int64_t>(empty_.size() + unheld_.size()); }

  // `count` blocks without contents, at most num_available(), held by the caller.
  std::vector<int32_t> Take(int64_t count);

  // The blocks that contain the longest beginning of `tokens` that is there, at most `max_blocks`.
  struct Beginning {
    std::vector<int32_t> blocks;
    int64_t num_unheld = 0;  // of them: holding these makes fewer blocks available
  };
  Beginning Find(const std::string& scope, absl::Span<const int32_t> tokens, int64_t max_blocks) const;
  // Blocks that Find has found, since when nothing has changed. Each may be held by many.
  void Hold(absl::Span<const int32_t> blocks);

  // Says that a block which the caller holds alone is full of `tokens` (kCacheBlockTokens), behind those of block
  // `before`, which has contents and which the caller holds too, or at the beginning of a sequence (-1). Returns the
  // block to use from now on: another one, held in place of this one, if there is one with the same contents already.
  int32_t Fill(int32_t block, int32_t before, const std::string& scope, absl::Span<const int32_t> tokens);

  // One sequence's blocks, in its order. Those with contents can be found until they are taken.
  void Release(absl::Span<const int32_t> blocks);

 private:
  static constexpr int32_t kNone = -1;
  struct Contents {
    int32_t before = kNone;  // a block that has contents as long as this one has
    std::string scope;       // of a first block; those behind it are in the scope of the first
    std::vector<int32_t> tokens;

    friend bool operator==(const Contents&, const Contents&) = default;
    template <class H>
    friend H AbslHashValue(H h, const Contents& c) {
      return H::combine(std::move(h), c.before, c.scope, c.tokens);
    }
  };
  using Index = absl::flat_hash_map<Contents, int32_t>;
  struct Block {
    int64_t num_holders = 0;
    int64_t num_followers = 0;           // blocks whose contents are behind this one's
    Contents contents;                   // no tokens: none
    std::list<int32_t>::iterator place;  // in unheld_, if it is there
  };
  static Contents MakeContents(int32_t before, const std::string& scope, absl::Span<const int32_t> tokens);
  void Let(int32_t block);     // one holder fewer
  void Forget(int32_t block);  // its contents

  std::vector<Block> blocks_;
  std::vector<int32_t> empty_;  // nobody's, without contents; the last is taken next
  std::list<int32_t> unheld_;   // nobody's, with contents; the first is forgotten next
  Index block_per_contents_;
};

}  // namespace tokenferry

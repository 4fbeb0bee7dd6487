// What the tests of both kinds of attention on tensor cores run them with.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "runtime/attention/attention_ops.h"
#include "tests/support/cuda_compare.h"

namespace tokenferry {

// Blocks of a sequence whose tokens stand at these positions, and of its others.
inline int64_t BlocksFor(const std::vector<int32_t>& positions) {
  int64_t most = 0;
  for (const int32_t position : positions) most = std::max(most, CacheBlocks(position + 1));
  return std::max<int64_t>(most, 4);
}

inline SplitSums SplitSumsOf(OpRun& run, int64_t num_tokens, int64_t heads) {
  float* sums = run.Output<float>("sums", num_tokens * heads * 2);
  return {sums, run.InOut("turns", std::vector<int32_t>(SplitSums::Turns(num_tokens, heads)))};
}

// The first result, `out`, with what is behind it; turns must be zeros again.
inline std::vector<uint8_t> FinishRun(OpRun& run) {
  const auto results = run.Finish();
  EXPECT_TRUE(results.ok()) << results.status();
  if (!results.ok()) return {};
  const std::vector<uint8_t>& turns = results->at(2).bytes;
  EXPECT_TRUE(std::all_of(turns.begin(), turns.end() - OpRun::kGuardBytes, [](uint8_t byte) { return byte == 0; }));
  return results->at(0).bytes;
}

}  // namespace tokenferry

// Capacity per sequence against a count over each whole sequence.
#include "experts/overflow/sequence_capacity.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace tokenferry {
namespace {

// Random selections of three sequences, whose tokens come in steps of any size and beside each other: what is dropped
// is what a count over each whole sequence drops.
TEST(SequenceCapacity, StepsChangeNothing) {
  constexpr int64_t kCapacity = 3, kExperts = 4, kTopK = 2, kLayer = 1;
  const std::vector<int64_t> lengths = {17, 1, 9};
  std::mt19937 random(71);
  std::vector<std::vector<int32_t>> chosen(3), kept(3);  // [tokens, K]
  for (size_t s = 0; s < 3; ++s) {
    std::vector<int64_t> counts(kExperts);
    for (int64_t i = 0; i < lengths[s] * kTopK; ++i) {
      const auto expert = static_cast<int32_t>(random() % (kExperts + 1)) - 1;
      chosen[s].push_back(expert);
      kept[s].push_back(expert >= 0 && ++counts[expert] > kCapacity ? -1 : expert);
    }
  }
  EXPECT_NE(kept[0], chosen[0]);
  for (const int64_t chunk : {1, 4, 100}) {
    std::vector<std::vector<int32_t>> counts(3, std::vector<int32_t>(2 * kExperts)), got(3);
    for (int64_t begin = 0; begin < lengths[0]; begin += chunk) {
      SequenceTokens tokens;
      for (auto& c : counts) tokens.selections.push_back(c.data());
      tokens.seq = {0};  // a row before those that are looked at
      std::vector<int32_t> idx;
      for (int32_t s = 2; s >= 0; --s) {
        for (int64_t t = begin; t < std::min(begin + chunk, lengths[s]); ++t) {
          tokens.seq.push_back(s);
          idx.insert(idx.end(), chosen[s].begin() + t * kTopK, chosen[s].begin() + (t + 1) * kTopK);
        }
      }
      const auto n = static_cast<int64_t>(idx.size()) / kTopK;
      std::vector<float> weight(idx.size(), 0.5f);
      const std::vector<int32_t> before = idx;
      ApplySequenceCapacity(kCapacity, tokens, 1, kLayer, kExperts, MakeMatrix<int32_t>(idx.data(), n, kTopK),
                            MakeMatrix<float>(weight.data(), n, kTopK));
      for (size_t i = 0; i < idx.size(); ++i) {
        EXPECT_EQ(weight[i], idx[i] == before[i] ? 0.5f : 0.0f);
        got[tokens.seq[1 + i / kTopK]].push_back(idx[i]);
      }
    }
    EXPECT_EQ(got, kept) << "chunks of " << chunk;
    for (const auto& c : counts) EXPECT_EQ(std::count(c.begin(), c.begin() + kExperts, 0), kExperts);  // layer 0's
  }
}

}  // namespace
}  // namespace tokenferry

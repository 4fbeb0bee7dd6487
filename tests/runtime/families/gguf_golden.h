// What tests of GGUF models compare with: the families of tests/data/families.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/checkpoint/safetensors.h"
#include "tests/runtime/engine/engine_runner.h"
#include "tests/support/checkpoint_writer.h"

namespace tokenferry {

inline std::string FamilyDir(const std::string& family) { return SourceDir() + "/tests/data/families/" + family; }
template <class T>
std::vector<T> Golden(const std::string& family, const std::string& name) {
  const auto file = SafetensorsFile::Open(FamilyDir(family) + "/golden.safetensors");
  EXPECT_TRUE(file.ok()) << file.status();
  const TensorInfo* info = (*file)->Find(name);
  std::vector<T> values(static_cast<size_t>(info->num_bytes) / sizeof(T));
  EXPECT_TRUE((*file)->Read(*info, 0, absl::MakeSpan(reinterpret_cast<uint8_t*>(values.data()), info->num_bytes)).ok());
  return values;
}

inline RunSetup SetupOf(const std::string& dir, int num_ranks = 1) {
  RunSetup setup;
  setup.model_dir = dir;
  setup.num_ranks = num_ranks;
  return setup;
}

// Largest difference, in units of what tests/data/families/README.md allows.
inline double WorstShare(const std::vector<float>& got, const std::vector<float>& want) {
  EXPECT_FALSE(want.empty());
  EXPECT_EQ(got.size(), want.size());
  double worst = 0;
  for (size_t i = 0; i < std::min(got.size(), want.size()); ++i) {
    const double allowed = 2e-4 + 1e-4 * std::abs(static_cast<double>(want[i]));
    const double share = std::abs(static_cast<double>(got[i]) - want[i]) / allowed;
    worst = std::isnan(share) ? HUGE_VAL : std::max(worst, share);
  }
  return worst;
}

inline bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return !a.empty() && a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// One, two and three ranks, and chunks: the same bits. They are returned.
inline std::vector<float> LogitsOfAll(const std::string& path, const std::vector<int32_t>& ids) {
  const auto logits = RunLocally(SetupOf(path), {LogitsRequest(ids)})[0].logits;
  for (const int ranks : {2, 3}) {
    RunSetup setup = SetupOf(path, ranks);
    setup.engine.prefill_chunk = 7;
    setup.placement_seed = ranks;
    EXPECT_TRUE(SameBits(RunLocally(setup, {LogitsRequest(ids)})[0].logits, logits)) << ranks << " ranks";
  }
  return logits;
}

// transformers' logits within the tolerance of tests/data/families, and its greedy texts.
inline void ExpectResultsOf(const std::string& family, const std::string& path) {
  const auto golden = nlohmann::json::parse(testing::ReadFile(FamilyDir(family) + "/golden.json"));
  for (const std::string prompt : {"short", "long"}) {
    const auto ids = Golden<int32_t>(family, prompt + ".input_ids");
    EXPECT_LE(WorstShare(LogitsOfAll(path, ids), Golden<float>(family, prompt + ".logits")), 1) << prompt;
    const auto greedy = golden["prompts"][prompt]["greedy"].get<std::vector<int32_t>>();
    const auto request = GenerateRequest(ids, static_cast<int64_t>(greedy.size()));
    EXPECT_EQ(RunLocally(SetupOf(path, 2), {request})[0].tokens, greedy) << prompt;
  }
}

}  // namespace tokenferry

// What tests of GGUF models compare with: the families of tests/data/families.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "runtime/checkpoint/safetensors.h"
#include "tests/runtime/engine/engine_runner.h"

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

}  // namespace tokenferry

// Runs the router on host vectors, for its tests.
#pragma once

#include <algorithm>
#include <vector>

#include "experts/router/router.h"
#include "tests/core/kernels/kernel_test_util.h"

namespace tokenferry {

inline constexpr uint8_t kUnmarked = 9;

struct Routed {
  std::vector<int32_t> idx;  // [T, top_k]
  std::vector<float> weight;
  std::vector<uint8_t> bad_tokens;  // [T] 1, or kUnmarked
  std::vector<float> choice;        // [T, E]
};

// `args` without pointers; bias empty: none.
inline Routed RunRoute(RouteArgs args, const std::vector<float>& logits, const std::vector<float>& bias,
                       const CpuDeviceOptions& options) {
  TestDevice device(options);
  const int64_t rows = args.logits.rows, size = rows * args.top_k;
  args.logits = MakeMatrix<const float>(device.Upload(logits), rows, args.logits.cols);
  args.bias = bias.empty() ? nullptr : device.Upload(bias);
  args.out.expert_idx = MakeMatrix<int32_t>(device.Upload(std::vector<int32_t>(size, 77)), rows, args.top_k);
  args.out.weight = MakeMatrix<float>(device.Upload(std::vector<float>(size, 77.0f)), rows, args.top_k);
  args.bad_tokens = device.Upload(std::vector<uint8_t>(rows, kUnmarked));
  const int64_t num_scores = rows * args.logits.cols;
  args.choice = MakeMatrix<float>(device.Upload(std::vector<float>(num_scores, 77.0f)), rows, args.logits.cols);
  Route(device.stream(), args);
  return {device.Download(args.out.expert_idx.data, size), device.Download(args.out.weight.data, size),
          device.Download(args.bad_tokens, rows), device.Download(args.choice.data, num_scores)};
}

// What kUnmarked marks are once those of bad tokens, 1 here, have been written.
inline std::vector<uint8_t> Marks(std::vector<uint8_t> bad) {
  for (uint8_t& mark : bad) mark = mark == 1 ? 1 : kUnmarked;
  return bad;
}

inline void ExpectEverywhere(const RouteArgs& args, const std::vector<float>& logits, const std::vector<float>& bias,
                             const Routed& expected) {
  for (Isa isa : SupportedIsaList()) {
    for (int threads : {1, 3}) {
      const Routed got = RunRoute(args, logits, bias, FastOptions(isa, threads));
      EXPECT_TRUE(SameBytes(got.idx, expected.idx)) << IsaName(isa);
      EXPECT_TRUE(SameBytes(got.weight, expected.weight)) << IsaName(isa);
      EXPECT_TRUE(SameBytes(got.choice, expected.choice)) << IsaName(isa);
      EXPECT_EQ(got.bad_tokens, expected.bad_tokens);
    }
  }
}

inline RouteArgs Shape(int64_t num_tokens, int64_t num_experts, int32_t top_k) {
  RouteArgs args;
  args.logits.rows = num_tokens;
  args.logits.cols = num_experts;
  args.top_k = top_k;
  return args;
}

inline const std::vector<float> kLogits = {0.5f, -1.0f, 2.0f, 0.1f, -0.3f, 1.2f, 0.7f, -2.0f};
inline const std::vector<float> kBias = {.10f, .90f, -.40f, .05f, .60f, -.20f, .50f, 0.0f};

// A token with kLogits, in figures of 6 decimals: what it gets, here and on every instruction set.
inline void ExpectVector(const RouteArgs& args, const std::vector<float>& bias, const std::vector<int32_t>& idx,
                         const std::vector<double>& weight) {
  const Routed got = RunRoute(args, kLogits, bias, ReferenceOptions());
  EXPECT_EQ(got.idx, idx);
  for (size_t k = 0; k < weight.size(); ++k)
    EXPECT_NEAR(got.weight[k], weight[k], 6e-7 * std::max(1.0, weight[k])) << k;
  EXPECT_EQ(got.bad_tokens, Marks({0}));
  ExpectEverywhere(args, kLogits, bias, got);
}

}  // namespace tokenferry

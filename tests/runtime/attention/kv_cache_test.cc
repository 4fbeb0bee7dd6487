#include "runtime/attention/kv_cache.h"

#include <gtest/gtest.h>

#include "tests/support/device_cases.h"

namespace tokenferry {
namespace {

KvCacheOptions Small(int64_t num_blocks) {
  return {.layers = {{10, 4}, {10, 4}, {6, 6}}, .dtype = DType::kBF16, .num_blocks = num_blocks};
}

TEST(KvCache, CountsItsMemory) {
  TestDevice device({});
  {
    KvCache cache = *KvCache::Create(device.device(), Small(5));
    EXPECT_EQ(KvCache::BytesPerToken(cache.options()), (14 + 14 + 12) * 2);
    EXPECT_EQ(device.device().allocated_bytes(), 5u * 64 * (14 + 14 + 12) * 2);
    EXPECT_EQ(cache.num_bytes(), 5 * 64 * (14 + 14 + 12) * 2);
    EXPECT_NE(cache.Layer(0, nullptr, 0).data, cache.Layer(2, nullptr, 0).data);
    const CacheView view = cache.Layer(1, nullptr, 7);
    EXPECT_EQ(view.first, 10);
    EXPECT_EQ(view.second, 4);
    EXPECT_EQ(view.dtype, DType::kBF16);
    EXPECT_EQ(view.max_blocks, 7);
  }
  EXPECT_EQ(device.device().allocated_bytes(), 0u);
  // DeepSeek-V3: 61 layers of 512 + 64 values in bf16.
  EXPECT_EQ(KvCache::BytesPerToken({.layers = std::vector<CacheSizes>(61, {512, 64})}), 70272);
}

TEST(KvCache, KeepsAStateForEachSequence) {
  TestDevice device({});
  const KvCacheOptions options = {
      .layers = {{10, 4}, {0, 0, 70}, {0, 0, 30}}, .dtype = DType::kBF16, .num_blocks = 5, .num_states = 3};
  EXPECT_EQ(KvCache::BytesPerToken(options), 14 * 2);
  EXPECT_EQ(KvCache::BytesPerState(options), 100 * 4);
  EXPECT_EQ(KvCache::NumBytes(options), 5 * 64 * 14 * 2 + 3 * 100 * 4);
  KvCache cache = *KvCache::Create(device.device(), options);
  EXPECT_EQ(device.device().allocated_bytes(), static_cast<size_t>(cache.num_bytes()));
  const std::vector<int32_t> slots = {2, 0};
  const StateView state = cache.State(1, slots.data());
  EXPECT_EQ(state.size, 70);
  EXPECT_EQ(state.of(0), state.data + 140);
  EXPECT_EQ(state.of(1), state.data);
  // Qwen3-Next-80B: 36 layers with 32 matrices of 128 x 128, and the last three rows of 8192 channels.
  const DeltaShape shape = {16, 32, 128, 128, 4};
  EXPECT_EQ(KvCache::BytesPerState({.layers = std::vector<CacheSizes>(36, {0, 0, shape.state_size()})}), 79'036'416);
}

TEST(KvCache, RefusesBadOptions) {
  TestDevice device({});
  const auto code = [&](auto change) {
    KvCacheOptions options = Small(4);
    change(options);
    return KvCache::Create(device.device(), options).status().code();
  };
  using O = KvCacheOptions;
  EXPECT_EQ(code([](O& o) { o.layers.clear(); }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](O& o) { o.layers[1].first = 0; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](O& o) { o.layers[0].second = -1; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](O& o) { o.num_blocks = 0; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](O& o) { o.dtype = DType::kF16; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](O& o) { o.layers[1] = {0, 0, 8}; }), absl::StatusCode::kInvalidArgument);  // states of nobody
  EXPECT_EQ(code([](O& o) { o.layers[1] = {4, 0, 8}, o.num_states = 1; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](O& o) {
              o.layers[1] = {0, 0, INT64_MAX / 4}, o.num_states = 2;
            }),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](O& o) { o.layers[2].first = INT64_MAX; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](O& o) { o.layers[0].first = o.layers[1].first = INT64_MAX / (4 * kCacheBlockTokens * 2); }),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(device.device().allocated_bytes(), 0u);
}

}  // namespace
}  // namespace tokenferry

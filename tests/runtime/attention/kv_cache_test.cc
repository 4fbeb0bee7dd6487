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
  EXPECT_EQ(KvCache::BytesPerToken({.layers = std::vector<CacheRowSizes>(61, {512, 64})}), 70272);
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
  EXPECT_EQ(code([](O& o) { o.layers[2].first = INT64_MAX; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](O& o) { o.layers[0].first = o.layers[1].first = INT64_MAX / (4 * kCacheBlockTokens * 2); }),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(device.device().allocated_bytes(), 0u);
}

}  // namespace
}  // namespace tokenferry

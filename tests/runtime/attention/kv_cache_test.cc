#include "runtime/attention/kv_cache.h"

#include <gtest/gtest.h>

#include "tests/support/device_cases.h"

namespace tokenferry {
namespace {

KvCacheOptions Small(int64_t num_blocks) {
  return {.num_layers = 3, .latent = 10, .rope = 4, .dtype = DType::kBF16, .num_blocks = num_blocks};
}

TEST(KvCache, CountsItsMemory) {
  TestDevice device({});
  {
    KvCache cache = *KvCache::Create(device.device(), Small(5));
    EXPECT_EQ(KvCache::BytesPerToken(cache.options()), 3 * 14 * 2);
    EXPECT_EQ(device.device().allocated_bytes(), 5u * 64 * 3 * 14 * 2);
    EXPECT_EQ(cache.num_bytes(), 5 * 64 * 3 * 14 * 2);
    EXPECT_NE(cache.Layer(0, nullptr, 0).data, cache.Layer(2, nullptr, 0).data);
    const LatentCacheView view = cache.Layer(1, nullptr, 7);
    EXPECT_EQ(view.latent, 10);
    EXPECT_EQ(view.rope, 4);
    EXPECT_EQ(view.dtype, DType::kBF16);
    EXPECT_EQ(view.max_blocks, 7);
  }
  EXPECT_EQ(device.device().allocated_bytes(), 0u);
  // DeepSeek-V3: 61 layers of 512 + 64 values in bf16.
  EXPECT_EQ(KvCache::BytesPerToken({.num_layers = 61, .latent = 512, .rope = 64}), 70272);
}

TEST(KvCache, RefusesBadOptions) {
  TestDevice device({});
  const auto code = [&](auto change) {
    KvCacheOptions options = Small(4);
    change(options);
    return KvCache::Create(device.device(), options).status().code();
  };
  using O = KvCacheOptions;
  EXPECT_EQ(code([](O& o) { o.num_layers = 0; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](O& o) { o.latent = 0; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](O& o) { o.rope = -1; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](O& o) { o.num_blocks = 0; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](O& o) { o.dtype = DType::kF16; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](O& o) { o.latent = INT64_MAX; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code([](O& o) { o.num_layers = INT64_MAX / 4; }), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(device.device().allocated_bytes(), 0u);
}

}  // namespace
}  // namespace tokenferry

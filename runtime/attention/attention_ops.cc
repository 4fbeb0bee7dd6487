#include "runtime/attention/attention_ops.h"

#include <cmath>

#include "core/check.h"
#include "core/device/cuda_launcher.h"
#include "runtime/attention/attention_kernels.h"

namespace tokenferry {
namespace {

void CheckCache(const CacheView& cache) {
  TF_CHECK(cache.dtype == DType::kF32 || cache.dtype == DType::kBF16);
  TF_CHECK_GT(cache.first, 0);
  TF_CHECK_GE(cache.second, 0);
}

void CheckKvB(const WeightView& w, int64_t heads, int64_t nope, int64_t value) {
  TF_CHECK_EQ(w.rows, heads * (nope + value));
  CheckWeight(w);
}

}  // namespace

// attention_ops.cu
absl::Status CudaRotate(const RopeArgs& args, void* stream);
absl::Status CudaCacheWrite(const CacheWriteArgs& args, void* stream);
absl::Status CudaAbsorbQuery(const AbsorbQueryArgs& args, void* stream);
absl::Status CudaLatentAttention(const LatentAttentionArgs& args, void* stream);
absl::Status CudaExpandValue(const ExpandValueArgs& args, void* stream);
absl::Status CudaTemperature(const TemperatureArgs& args, void* stream);
absl::Status CudaGroupedAttention(const GroupedAttentionArgs& args, void* stream);

constexpr Op<RopeArgs> kRope{"rotate", &attention_reference::Rotate, &attention_cpu::Rotate,
                             TF_CUDA_LAUNCHER(CudaRotate)};
constexpr Op<CacheWriteArgs> kCacheWrite{"cache_write", &attention_reference::CacheWrite, &attention_cpu::CacheWrite,
                                         TF_CUDA_LAUNCHER(CudaCacheWrite)};
constexpr Op<AbsorbQueryArgs> kAbsorb{"absorb_query", &attention_reference::AbsorbQuery, &attention_cpu::AbsorbQuery,
                                      TF_CUDA_LAUNCHER(CudaAbsorbQuery)};
constexpr Op<LatentAttentionArgs> kAttention{"latent_attention", &attention_reference::LatentAttention,
                                             &attention_cpu::LatentAttention, TF_CUDA_LAUNCHER(CudaLatentAttention)};
constexpr Op<ExpandValueArgs> kExpand{"expand_value", &attention_reference::ExpandValue, &attention_cpu::ExpandValue,
                                      TF_CUDA_LAUNCHER(CudaExpandValue)};

namespace {

void TemperatureReference(const TemperatureArgs& a) {
  for (int64_t t = 0; t < a.tokens.num_tokens; ++t) {
    const float factor = a.factors[TemperaturePlace(a, t)];
    for (int64_t i = 0; i < a.x.cols; ++i) a.x.row(t)[i] *= factor;
  }
}

}  // namespace

constexpr Op<TemperatureArgs> kTemperature{"attention_temperature", &TemperatureReference, nullptr,
                                           TF_CUDA_LAUNCHER(CudaTemperature)};

std::vector<float> TemperatureFactors(float scale, float period, int64_t num_positions) {
  std::vector<float> factors;
  const auto last = static_cast<int64_t>(static_cast<double>(num_positions) / static_cast<double>(period));
  for (int64_t i = 0; i <= last; ++i) {
    factors.push_back(static_cast<float>(1 + static_cast<double>(scale) * std::log(1.0 + static_cast<double>(i))));
  }
  return factors;
}

void ApplyTemperature(Stream& stream, const TemperatureArgs& args) {
  TF_CHECK(args.factors != nullptr);
  TF_CHECK_EQ(args.x.rows, args.tokens.num_tokens);
  stream.Launch(kTemperature, args);
}

constexpr Op<GroupedAttentionArgs> kGrouped{"grouped_attention", &attention_reference::GroupedAttention,
                                            &attention_cpu::GroupedAttention, TF_CUDA_LAUNCHER(CudaGroupedAttention)};

void Rotate(Stream& stream, const RopeArgs& args) {
  TF_CHECK_EQ(args.dim % 2, 0);
  stream.Launch(kRope, args);
}

void CacheWrite(Stream& stream, const CacheWriteArgs& args) {
  CheckCache(args.cache);
  stream.Launch(kCacheWrite, args);
}

void AbsorbQuery(Stream& stream, const AbsorbQueryArgs& args) {
  CheckKvB(args.kv_b, args.heads, args.nope, args.value);
  stream.Launch(kAbsorb, args);
}

void LatentAttention(Stream& stream, const LatentAttentionArgs& args) {
  CheckCache(args.cache);
  TF_CHECK_EQ(args.cache.second, args.rope);
  stream.Launch(kAttention, args);
}

void GroupedAttention(Stream& stream, const GroupedAttentionArgs& args) {
  CheckCache(args.cache);
  TF_CHECK_GT(args.kv_heads, 0);
  TF_CHECK_EQ(args.heads % args.kv_heads, 0);
  TF_CHECK_EQ(args.cache.first, int64_t{args.kv_heads} * args.head_dim);
  TF_CHECK_EQ(args.cache.second, args.cache.first);
  TF_CHECK(args.keys.kind == KeyRange::Kind::kAll || args.keys.size > 0);
  stream.Launch(kGrouped, args);
}

void ExpandValue(Stream& stream, const ExpandValueArgs& args) {
  CheckKvB(args.kv_b, args.heads, args.nope, args.value);
  TF_CHECK(args.rounded == nullptr || RunsOnTensorCores(stream, args.compute));
  stream.Launch(kExpand, args);
}

}  // namespace tokenferry

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/kernels/cuda_bench.h"
#include "comm/ops/exchange_ops.h"
#include "core/kernels/gated_matmul.h"
#include "core/kernels/gather_rows.h"
#include "experts/ffn/expert_ffn.h"
#include "experts/router/router.h"
#include "runtime/attention/attention_ops.h"
#include "runtime/attention/gated_delta.h"
#include "runtime/attention/key_selection.h"
#include "runtime/ops/norm_ops.h"

namespace tokenferry {
namespace {

constexpr int64_t kTokens = 128, kContext = 4096, kHidden = 7168;

// What has to be of `out` [size]: numbers, and where a launch does not build on the last one, always the same.
enum class Outputs { kSame, kChange };

Result TimeOp(Bench& bench, Result result, const std::function<void()>& launch, const float* out, int64_t size,
              Outputs outputs = Outputs::kSame) {
  const auto read = [&] {
    std::vector<float> values(size);
    bench.stream().CopyToHost(values.data(), out, size * sizeof(float));
    bench.Wait();
    for (const float x : values) TF_CHECK(std::isfinite(x));
    return values;
  };
  launch();
  const std::vector<float> before = read();
  result.seconds = SecondsPerLaunch(bench, launch);
  const std::vector<float> after = read();
  TF_CHECK(outputs == Outputs::kChange || before == after);
  return result;
}

MatrixView<const float> RandomMatrix(Bench& bench, int64_t rows, int64_t cols) {
  return {bench.Upload(Random(rows * cols)), rows, cols, cols};
}
MatrixView<float> Matrix(Bench& bench, int64_t rows, int64_t cols) {
  return {bench.Allocate<float>(rows * cols), rows, cols, cols};
}

// Sequences, and the keys of each.
struct Contexts {
  int64_t num_tokens = kTokens, num_keys = kContext;

  std::string Name() const { return absl::StrFormat("%d tokens of %d keys", num_tokens, num_keys); }
};
constexpr Contexts kLong = {2, 65536};  // as many keys as a quarter of the others'

// Each token at the end of a sequence of its own.
TokenPositions AtTheEnd(Bench& bench, const Contexts& c = {}) {
  std::vector<int32_t> seq(c.num_tokens);
  std::iota(seq.begin(), seq.end(), 0);
  const std::vector<int32_t> position(c.num_tokens, static_cast<int32_t>(c.num_keys - 1));
  return {bench.Upload(seq), bench.Upload(position), c.num_tokens};
}

SplitSums Splits(Bench& bench, int64_t num_tokens, int64_t heads) {
  return {bench.Allocate<float>(num_tokens * heads * 2),
          bench.Upload(std::vector<int32_t>(SplitSums::Turns(num_tokens, heads)))};
}

// Of all sequences, bf16. The same numbers in every block: of any numbers it takes the same time.
CacheView Cache(Bench& bench, int64_t first, int64_t second, const Contexts& c = {}) {
  const int64_t num_blocks = c.num_tokens * c.num_keys / kCacheBlockTokens;
  const int64_t block = kCacheBlockTokens * (first + second);
  std::vector<BF16> values;
  for (const float x : Random(block)) values.push_back(ToBF16(x));
  BF16* data = bench.Allocate<BF16>(num_blocks * block);
  for (int64_t b = 0; b < num_blocks; ++b)
    bench.stream().CopyToDevice(data + b * block, values.data(), block * sizeof(BF16));
  std::vector<int32_t> table(num_blocks);
  std::iota(table.rbegin(), table.rend(), 0);
  return {data, DType::kBF16, first, second, bench.Upload(table), c.num_keys / kCacheBlockTokens};
}

WeightView BF16Weight(Bench& bench, int64_t rows, int64_t cols) {
  std::vector<BF16> values;
  for (const float x : Random(rows * cols)) values.push_back(ToBF16(x));
  return {.format = {.dtype = DType::kBF16}, .data = bench.Upload(values), .rows = rows, .cols = cols};
}

Result TimeGather(Bench& bench) {
  constexpr int64_t kRows = 4096;
  std::vector<int32_t> idx(kRows);
  std::iota(idx.rbegin(), idx.rend(), 0);
  const float* src = bench.Upload(Random(kRows * kHidden / 2));  // of two bf16 values each
  float* dst = bench.Allocate<float>(kRows * kHidden / 2);
  const MatrixView<const BF16> rows{reinterpret_cast<const BF16*>(src), kRows, kHidden, kHidden};
  const GatherRowsArgs args{rows, bench.Upload(idx), kRows, dst, DType::kBF16};
  return TimeOp(
      bench, {.name = "gather 4096 rows of 7168 bf16", .bytes = 2.0 * kRows * kHidden * 2},
      [&] { bench.stream().Launch(kGatherRows, args); }, dst, kRows * kHidden / 2);
}

Result TimeCombine(Bench& bench) {
  constexpr int64_t kRows = 512, kTopK = 8, kSelections = kRows * kTopK;
  std::vector<int64_t> offsets(kRows + 1);
  for (int64_t t = 0; t <= kRows; ++t) offsets[t] = t * kTopK;
  std::vector<int32_t> selection(kSelections), k(kSelections);
  for (int32_t i = 0; i < kSelections; ++i) {
    selection[i] = kSelections - 1 - i;
    k[i] = i % kTopK;
  }
  CombineRowsArgs args;
  args.rows = RandomMatrix(bench, kSelections, kHidden);
  args.offsets = bench.Upload(offsets);
  args.selection = bench.Upload(selection);
  args.k = bench.Upload(k);
  args.weight = RandomMatrix(bench, kRows, kTopK);
  const MatrixView<float> out = Matrix(bench, kRows, kHidden);
  args.out = out;
  return TimeOp(
      bench,
      {.name = "combine 512 tokens x 8 rows of 7168 f32",
       .bytes = 4.0 * (kSelections + kRows) * kHidden,
       .flops = 2.0 * kSelections * kHidden,
       .units = Units::kF32},
      [&] { bench.stream().Launch(kCombineRows, args); }, out.data, kRows * kHidden);
}

Result TimeNorm(Bench& bench) {
  const RmsNormArgs args{.x = RandomMatrix(bench, kTokens, kHidden),
                         .weight = bench.Upload(Random(kHidden)),
                         .out = Matrix(bench, kTokens, kHidden),
                         .rounded = {bench.Allocate<BF16>(kTokens * kHidden), kTokens, kHidden, kHidden}};
  return TimeOp(
      bench, {.name = "norm 128 rows of 7168, f32 and bf16", .bytes = (4.0 + 4 + 2) * kTokens * kHidden},
      [&] { RmsNorm(bench.stream(), args); }, args.out.data, kTokens * kHidden);
}

Result TimeSiluMul(Bench& bench) {
  constexpr int64_t kRows = 1024, kCols = 2048;
  const SiluMulArgs args{RandomMatrix(bench, kRows, kCols), RandomMatrix(bench, kRows, kCols),
                         Matrix(bench, kRows, kCols)};
  return TimeOp(
      bench, {.name = "silu(gate) * up, 1024 rows of 2048", .bytes = 12.0 * kRows * kCols},
      [&] { SiluMul(bench.stream(), args); }, args.out.data, kRows * kCols);
}

// Of 16 experts, FP8. The same codes in every matrix, as in Cache.
Result TimeGatedMatMul(Bench& bench) {
  constexpr int64_t kExperts = 16, kRows = 1024, kOuts = 2048, kBlock = 128;
  std::vector<F8E4M3> codes;
  for (const float x : Random(kOuts * kHidden)) codes.push_back(ToF8E4M3(x));
  const float* scales = bench.Upload(std::vector<float>(kOuts / kBlock * kHidden / kBlock, 0.02f));
  std::vector<WeightView> views;
  for (int64_t m = 0; m < 2 * kExperts; ++m) {
    views.push_back({.format = F8BlockWeights::Of(kBlock, kBlock),
                     .data = bench.Upload(codes),
                     .rows = kOuts,
                     .cols = kHidden,
                     .scales = scales,
                     .scale_stride = kHidden / kBlock});
  }
  std::vector<int64_t> offsets;
  for (int64_t e = 0; e <= kExperts; ++e) offsets.push_back(kRows / kExperts * e);
  std::vector<BF16> rows;
  for (const float x : Random(kRows * kHidden)) rows.push_back(ToBF16(x));
  const WeightView* device_views = bench.Upload(views);
  const GatedMatMulArgs args{.x = bench.Upload(rows),
                             .x_dtype = DType::kBF16,
                             .x_stride = kHidden,
                             .offsets = bench.Upload(offsets),
                             .num_groups = kExperts,
                             .max_rows = kRows,
                             .gate = {views[0], device_views},
                             .up = {views[0], device_views + kExperts},
                             .y = {bench.Allocate<BF16>(kRows * kOuts), kRows, kOuts, kOuts}};
  return TimeOp(
      bench,
      {.name = "fp8 gate, up, silu, 16 x 64 rows, 7168 -> 2048",
       .bytes = 2.0 * kExperts * kOuts * kHidden + 2.0 * kRows * (kHidden + kOuts),
       .flops = 4.0 * kRows * kOuts * kHidden,
       .units = Units::kTensor},
      [&] { GatedMatMul(bench.stream(), args); }, reinterpret_cast<const float*>(args.y.data), kRows * kOuts / 2);
}

Result TimeRouter(Bench& bench) {
  constexpr int64_t kExperts = 256, kTopK = 8;
  RouteArgs args;
  args.scoring = Scoring::kSigmoid;
  args.renormalise = Renormalise::kYes;
  args.group_score = GroupScore::kSumOfTwoLargest;
  args.num_groups = 8;
  args.groups_kept = 4;
  args.top_k = kTopK;
  args.logits = RandomMatrix(bench, kTokens, kExperts);
  args.bias = bench.Upload(Random(kExperts));
  args.out = {{bench.Allocate<int32_t>(kTokens * kTopK), kTokens, kTopK, kTopK}, Matrix(bench, kTokens, kTopK)};
  return TimeOp(
      bench, {.name = "router, 128 tokens, 256 experts", .bytes = 4.0 * kTokens * (kExperts + 2 * kTopK)},
      [&] { Route(bench.stream(), args); }, args.out.weight.data, kTokens * kTopK);
}

Result TimeAbsorb(Bench& bench) {
  constexpr int32_t kHeads = 128, kNope = 128, kRope = 64, kValue = 128;
  constexpr int64_t kLatent = 512;
  const AbsorbQueryArgs args{bench.Upload(Random(kTokens * kHeads * (kNope + kRope))),
                             kTokens,
                             kHeads,
                             kNope,
                             kRope,
                             kValue,
                             BF16Weight(bench, kHeads * (kNope + kValue), kLatent),
                             bench.Allocate<float>(kTokens * kHeads * kLatent),
                             Compute::kBF16};
  return TimeOp(
      bench,
      {.name = "absorb queries, 128 tokens, 128 heads",
       .bytes = 2.0 * kHeads * kNope * kLatent + 4.0 * kTokens * kHeads * (kNope + kLatent),
       .flops = 2.0 * kTokens * kHeads * kNope * kLatent,
       .units = Units::kTensor},
      [&] { AbsorbQuery(bench.stream(), args); }, args.out, kTokens * kHeads * kLatent);
}

Result TimeLatentAttention(Bench& bench, const Contexts& c) {
  constexpr int64_t kLatent = 512;
  LatentAttentionArgs args;
  args.heads = 128;
  args.nope = 128;
  args.rope = 64;
  args.scale = 0.01f;
  args.q_latent = bench.Upload(Random(c.num_tokens * args.heads * kLatent));
  args.q = bench.Upload(Random(c.num_tokens * args.heads * (args.nope + args.rope)));
  args.tokens = AtTheEnd(bench, c);
  args.cache = Cache(bench, kLatent, args.rope, c);
  args.out = bench.Allocate<float>(c.num_tokens * args.heads * kLatent);
  args.compute = Compute::kBF16;
  args.splits = Splits(bench, c.num_tokens, args.heads);
  return TimeOp(
      bench,
      {.name = absl::StrCat("latent attention, ", c.Name(), ", 128 heads"),
       .bytes = 2.0 * c.num_tokens * c.num_keys * (kLatent + args.rope),
       .flops = 2.0 * c.num_tokens * args.heads * c.num_keys * (2 * kLatent + args.rope),
       .units = Units::kTensor},
      [&] { LatentAttention(bench.stream(), args); }, args.out, c.num_tokens * args.heads * kLatent);
}

// Qwen3-235B-A22B's.
Result TimeGroupedAttention(Bench& bench, const Contexts& c) {
  GroupedAttentionArgs args;
  args.heads = 64;
  args.kv_heads = 4;
  args.head_dim = 128;
  args.scale = 0.1f;
  const int64_t kv = int64_t{args.kv_heads} * args.head_dim, size = c.num_tokens * args.heads * args.head_dim;
  args.q = bench.Upload(Random(size));
  args.tokens = AtTheEnd(bench, c);
  args.cache = Cache(bench, kv, kv, c);
  args.out = bench.Allocate<float>(size);
  args.compute = Compute::kBF16;
  args.splits = Splits(bench, c.num_tokens, args.heads);
  return TimeOp(
      bench,
      {.name = absl::StrCat("grouped attention, ", c.Name(), ", 64 heads"),
       .bytes = 2.0 * c.num_tokens * c.num_keys * 2 * kv,
       .flops = 4.0 * size * c.num_keys,
       .units = Units::kTensor},
      [&] { GroupedAttention(bench.stream(), args); }, args.out, size);
}

// DeepSeek-V3.2's. What is compared afterwards are its scores.
Result TimeIndexer(Bench& bench) {
  constexpr int64_t kDim = 128, kSelected = 2048;
  SelectKeysArgs args;
  args.heads = 64;
  args.num_selected = kSelected;
  args.q = bench.Upload(Random(kTokens * args.heads * kDim));
  args.weight = bench.Upload(Random(kTokens * args.heads));
  args.tokens = AtTheEnd(bench);
  args.keys = Cache(bench, kDim, 0);
  args.selected = bench.Allocate<int32_t>(kTokens * kSelected);
  args.compute = Compute::kBF16;
  args.scores = Matrix(bench, kTokens, kContext);
  return TimeOp(
      bench,
      {.name = "indexer, 128 tokens, 64 heads, 2048 keys",
       .bytes = 2.0 * kTokens * kContext * kDim + 4.0 * kTokens * kSelected,
       .flops = 2.0 * kTokens * args.heads * kContext * kDim,
       .units = Units::kTensor},
      [&] { SelectKeys(bench.stream(), args); }, args.scores.data, kTokens * kContext);
}

// Qwen3-Next's. States go on from launch to launch, as from step to step.
Result TimeGatedDelta(Bench& bench) {
  constexpr DeltaShape kShape{16, 32, 128, 128, 4};
  const int64_t values = kShape.values_size(), heads = kShape.num_value_heads;
  const int64_t state = heads * kShape.key_dim * kShape.value_dim;
  const auto groups = [&](int64_t width) {  // all of a token side by side, by key head
    return HeadGroups{bench.Upload(Random(kTokens * width)), width, width / kShape.num_key_heads};
  };
  GatedDeltaArgs args;
  std::vector<float> qkv = Random(kTokens * kShape.num_channels());
  for (float& x : qkv) x /= 16;  // heads of queries and keys are not longer than 1
  args.qkv = bench.Upload(qkv);
  args.z = groups(values);
  args.b = groups(heads);
  args.a = groups(heads);
  args.a_log = bench.Upload(std::vector<float>(heads));
  args.dt_bias = bench.Upload(std::vector<float>(heads));
  args.norm = bench.Upload(Random(kShape.value_dim));
  args.shape = kShape;
  args.tokens = AtTheEnd(bench);
  std::vector<int32_t> slots(kTokens);
  std::iota(slots.rbegin(), slots.rend(), 0);
  float* const states = bench.Allocate<float>(kTokens * kShape.state_size());
  bench.stream().Fill(states, 0, kTokens * kShape.state_size() * sizeof(float));
  args.state = {states, kShape.state_size(), bench.Upload(slots)};
  args.out = bench.Allocate<float>(kTokens * values);
  return TimeOp(
      bench,
      {.name = "gated delta rule, 128 tokens, 32 heads",
       .bytes = 2.0 * 4 * kTokens * state,
       .flops = 7.0 * kTokens * state,  // decay, two sums, an update
       .units = Units::kF32},
      [&] { GatedDelta(bench.stream(), args); }, args.out, kTokens * values, Outputs::kChange);
}

}  // namespace

const std::vector<OpTimer>& OpTimers() {
  static const std::vector<OpTimer> timers = {TimeGather,
                                              TimeCombine,
                                              TimeNorm,
                                              TimeSiluMul,
                                              TimeGatedMatMul,
                                              TimeRouter,
                                              TimeAbsorb,
                                              [](Bench& bench) { return TimeLatentAttention(bench, {}); },
                                              [](Bench& bench) { return TimeLatentAttention(bench, kLong); },
                                              [](Bench& bench) { return TimeGroupedAttention(bench, {}); },
                                              [](Bench& bench) { return TimeGroupedAttention(bench, kLong); },
                                              TimeIndexer,
                                              TimeGatedDelta};
  return timers;
}

}  // namespace tokenferry

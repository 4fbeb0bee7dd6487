#include <algorithm>

#include "runtime/attention/attention_ops.h"
#include "runtime/attention/key_selection.h"
#include "tests/support/cuda_compare.h"

namespace tokenferry {
namespace {

struct Shape {
  int32_t heads, nope, rope, value;
  int64_t latent;
};
// Widths that are no multiples of a step of 16; DeepSeek-V3's, with few heads.
const std::vector<Shape> kShapes = {{1, 1, 2, 1, 1}, {3, 17, 6, 33, 40}, {2, 128, 64, 128, 512}};
constexpr int64_t kSequences = 3, kMaxBlocks = 4, kMaxPosition = 200;

std::vector<int32_t> Permutation(std::mt19937& rng, int32_t size) {
  std::vector<int32_t> values(size);
  for (int32_t i = 0; i < size; ++i) values[i] = i;
  std::shuffle(values.begin(), values.end(), rng);
  return values;
}

// Tokens at positions of their own, the first at 0, the second at the end of a block; the fourth is none.
TokenPositions Positions(OpRun& run, int64_t num_tokens) {
  std::vector<int32_t> position = Permutation(run.rng(), kMaxPosition);
  std::swap(position[0], *std::find(position.begin(), position.end(), 0));
  std::swap(position[1], *std::find(position.begin(), position.end(), kCacheBlockTokens - 1));
  position.resize(num_tokens);
  if (num_tokens > 3) position[3] = -1;
  return {run.Input(UniformInts(run.rng(), num_tokens, 0, kSequences)), run.Input(position), num_tokens};
}

template <class T>
CacheView Cache(OpRun& run, int64_t first, int64_t second) {
  CacheView cache;
  const int64_t num_blocks = kSequences * kMaxBlocks, width = first + second;
  cache.data = run.InOut("cache", NormalValues<T>(run.rng(), num_blocks * kCacheBlockTokens * width));
  cache.dtype = kDTypeOf<T>;
  cache.first = first;
  cache.second = second;
  cache.block_table = run.Input(Permutation(run.rng(), num_blocks));
  cache.max_blocks = kMaxBlocks;
  return cache;
}

class AttentionCudaTest : public CudaCompareTest {
 protected:
  void ForShapes(const std::function<void(const Shape&, int64_t, Compute)>& test) {
    for (const Shape& shape : kShapes) {
      for (int64_t num_tokens : {0, 1, 2, 7}) {
        for (Compute compute : {Compute::kF32, Compute::kBF16}) {
          SCOPED_TRACE(testing::Message() << num_tokens << " tokens, " << shape.heads << " heads, latent "
                                          << shape.latent << (compute == Compute::kF32 ? "" : ", bf16"));
          test(shape, num_tokens, compute);
        }
      }
    }
  }
};

TEST_F(AttentionCudaTest, Rope) {
  ForShapes([&](const Shape& s, int64_t num_tokens, Compute) {
    ExpectSameBits([&](OpRun& run) {
      const int64_t head = s.nope + s.rope;
      RopeArgs args;
      args.stride = s.heads * head;
      args.head_stride = head;
      args.heads = s.heads;
      args.dim = s.rope;
      args.x = run.InOut("x", NormalFloats(run.rng(), num_tokens * args.stride)) + s.nope;
      args.cos_sin = run.Input(NormalFloats(run.rng(), kMaxPosition * s.rope));
      args.tokens = Positions(run, num_tokens);
      Rotate(run.stream(), args);
      args.tokens.rope_row = run.Input(UniformInts(run.rng(), num_tokens, 0, kMaxPosition));
      Rotate(run.stream(), args);
    });
  });
}

template <class T>
void CacheWriteCase(OpRun& run, const Shape& s, int64_t num_tokens) {
  CacheWriteArgs args;
  args.first_stride = args.second_stride = s.latent + s.rope;
  const float* rows = run.Input(NormalFloats(run.rng(), num_tokens * args.first_stride));
  args.first = rows;
  args.second = rows + s.latent;
  args.tokens = Positions(run, num_tokens);
  args.cache = Cache<T>(run, s.latent, s.rope);
  CacheWrite(run.stream(), args);
}

TEST_F(AttentionCudaTest, CacheWrite) {
  ForShapes([&](const Shape& s, int64_t num_tokens, Compute) {
    ExpectSameBits([&](OpRun& run) { CacheWriteCase<float>(run, s, num_tokens); });
    ExpectSameBits([&](OpRun& run) { CacheWriteCase<BF16>(run, s, num_tokens); });
  });
}

TEST_F(AttentionCudaTest, Temperature) {
  const std::vector<float> factors = TemperatureFactors(0.1f, 7, 1000);
  for (const int64_t num_tokens : kRowCounts) {
    for (const int64_t cols : kWidths) {
      ExpectSameBits([&](OpRun& run) {
        const int32_t* seq = run.Input(std::vector<int32_t>(num_tokens));
        const int32_t* position = run.Input(UniformInts(run.rng(), num_tokens, -1, 1000));
        const MatrixView<float> x{run.InOut("x", NormalFloats(run.rng(), num_tokens * cols)), num_tokens, cols, cols};
        ApplyTemperature(run.stream(), {x, run.Input(factors), 7, {seq, position, num_tokens}});
      });
    }
  }
}

void AbsorbCase(OpRun& run, const WeightFormat& format, const Shape& s, int64_t num_tokens) {
  const WeightView kv_b = RandomWeight(run, format, s.heads * (s.nope + s.value), s.latent);
  const float* q = run.Input(NormalFloats(run.rng(), num_tokens * s.heads * (s.nope + s.rope)));
  float* absorbed = run.Output<float>("absorbed", num_tokens * s.heads * s.latent);
  AbsorbQuery(run.stream(), {q, num_tokens, s.heads, s.nope, s.rope, s.value, kv_b, absorbed});
  float* out = run.Output<float>("heads", num_tokens * s.heads * s.value);
  ExpandValue(run.stream(), {absorbed, num_tokens, s.heads, s.nope, s.value, kv_b, out});
}

TEST_F(AttentionCudaTest, AbsorbAndExpand) {
  ForShapes([&](const Shape& s, int64_t num_tokens, Compute compute) {
    if (compute == Compute::kBF16) return;  // on tensor cores: head_product_mma_cuda_test.cc
    for (const WeightFormat& format : kWeightFormats) {
      SCOPED_TRACE(ToString(format));
      ExpectSameBits([&](OpRun& run) { AbsorbCase(run, format, s, num_tokens); },
                     NumSeeds(format, s.heads * (s.nope + s.value), s.latent));
    }
  });
}

TEST_F(AttentionCudaTest, AbsorbAndExpandByBlocks) {
  for (const WeightFormat& format : BlockFormats()) {
    const Shape shape = {2, 3, 2, 5, BlockOf(format.dtype).elements};
    SCOPED_TRACE(ToString(format));
    for (const int64_t num_tokens : {0, 1, 5})
      ExpectSameBits([&](OpRun& run) { AbsorbCase(run, format, shape, num_tokens); });
  }
}

template <class T>
LatentAttentionArgs LatentArgs(OpRun& run, const Shape& s, const TokenPositions& tokens, Compute compute) {
  const int64_t num_tokens = tokens.num_tokens;
  LatentAttentionArgs args;
  args.q_latent = run.Input(NormalFloats(run.rng(), num_tokens * s.heads * s.latent));
  args.q = run.Input(NormalFloats(run.rng(), num_tokens * s.heads * (s.nope + s.rope)));
  args.heads = s.heads;
  args.nope = s.nope;
  args.rope = s.rope;
  args.scale = 0.3f;
  args.tokens = tokens;
  args.cache = Cache<T>(run, s.latent, s.rope);
  args.out = run.Output<float>("out", num_tokens * s.heads * s.latent);
  args.compute = compute;
  return args;
}

template <class T>
void AttentionCase(OpRun& run, const Shape& s, int64_t num_tokens, Compute compute) {
  LatentAttention(run.stream(), LatentArgs<T>(run, s, Positions(run, num_tokens), compute));
}

TEST_F(AttentionCudaTest, LatentAttention) {
  ForShapes([&](const Shape& s, int64_t num_tokens, Compute compute) {
    ExpectSameBits([&](OpRun& run) { AttentionCase<float>(run, s, num_tokens, compute); });
    if (compute == Compute::kBF16 && s.latent % 16 == 0) return;  // on tensor cores: latent_attention_mma_cuda_test.cc
    ExpectSameBits([&](OpRun& run) { AttentionCase<BF16>(run, s, num_tokens, compute); });
  });
}

struct IndexerShape {
  int32_t heads;
  int64_t dim, num_selected;
};
// Of one head half of the scores are 0: where so many are selected, ties decide.
const std::vector<IndexerShape> kIndexerShapes = {{1, 4, 1}, {1, 20, 120}, {5, 17, 70}};

// An indexer, and latent attention over what it selects. Some scores are NaN and infinities. Scores of two tokens fit
// into their memory, fewer than there are.
template <class T>
void SparseCase(OpRun& run, const IndexerShape& i, const Shape& s, int64_t num_tokens, Compute compute) {
  std::vector<float> q = NormalFloats(run.rng(), num_tokens * i.heads * i.dim);
  std::vector<float> weight = NormalFloats(run.rng(), num_tokens * i.heads);
  if (num_tokens > 2 && run.rng()() % 2 == 0) {
    q[i.heads * i.dim] = NAN;
    weight[2 * i.heads] = INFINITY;
  }
  const int64_t most_keys = kMaxPosition + run.rng()() % 100;
  SelectKeysArgs args;
  args.q = run.Input(q);
  args.weight = run.Input(weight);
  args.heads = i.heads;
  args.num_selected = i.num_selected;
  args.tokens = Positions(run, num_tokens);
  args.keys = Cache<T>(run, i.dim, 0);
  args.selected = run.Output<int32_t>("selected", num_tokens * i.num_selected);
  args.compute = compute;
  args.scores = {run.Input(std::vector<float>(2 * most_keys)), 2, most_keys, most_keys};
  SelectKeys(run.stream(), args);
  LatentAttentionArgs attention = LatentArgs<T>(run, s, args.tokens, compute);
  attention.selected = args.selected;
  attention.num_selected = args.num_selected;
  LatentAttention(run.stream(), attention);
}

TEST_F(AttentionCudaTest, SparseAttention) {
  for (const IndexerShape& i : kIndexerShapes) {
    for (const int64_t num_tokens : {0, 1, 5}) {
      for (const Compute compute : {Compute::kF32, Compute::kBF16}) {
        SCOPED_TRACE(testing::Message() << num_tokens << " tokens, " << i.heads << " heads of " << i.dim << ", "
                                        << i.num_selected << " selected" << (compute == Compute::kF32 ? "" : ", bf16"));
        // Selection is the same for all; the others differ in how one element is read.
        const int num_f32 = compute == Compute::kF32 ? 10 : 1, num_bf16 = compute == Compute::kF32 ? 1 : 3;
        ExpectSameBits([&](OpRun& run) { SparseCase<float>(run, i, kShapes[1], num_tokens, compute); }, num_f32);
        ExpectSameBits([&](OpRun& run) { SparseCase<BF16>(run, i, kShapes[1], num_tokens, compute); }, num_bf16);
      }
    }
  }
}

// Four bytes for each of them are more than a block of threads has.
TEST_F(AttentionCudaTest, SelectsAmongMoreKeysThanSharedMemoryHolds) {
  constexpr int64_t kBlocks = 1000, kNumKeys = kBlocks * kCacheBlockTokens - 1, kSelected = 300, kDim = 4;
  const auto test = [&](OpRun& run) {
    SelectKeysArgs args;
    args.q = run.Input(NormalFloats(run.rng(), kDim));
    args.weight = run.Input(NormalFloats(run.rng(), 1));
    args.heads = 1;
    args.num_selected = kSelected;
    args.tokens = {run.Input(std::vector<int32_t>{0}), run.Input(std::vector<int32_t>{kNumKeys - 1}), 1};
    args.keys = {run.Input(NormalFloats(run.rng(), kBlocks * kCacheBlockTokens * kDim)),
                 DType::kF32,
                 kDim,
                 0,
                 run.Input(Permutation(run.rng(), kBlocks)),
                 kBlocks};
    args.selected = run.Output<int32_t>("selected", kSelected);
    args.scores = {run.Input(std::vector<float>(kNumKeys)), 1, kNumKeys, kNumKeys};
    SelectKeys(run.stream(), args);
  };
  ExpectSameBits(test, 1);
}

struct GroupedShape {
  int32_t heads, kv_heads, head_dim;
  KeyRange keys;
};
using Kind = KeyRange::Kind;
const std::vector<GroupedShape> kGroupedShapes = {
    {1, 1, 1, {}}, {6, 2, 34, {Kind::kSliding, 70}}, {4, 4, 20, {Kind::kChunk, 50}}, {8, 1, 128, {}}};

// Some keys are farther away than it reaches.
RelativeBias Bias(OpRun& run, int64_t heads) {
  constexpr int64_t kReach = 40;
  return {run.Input(NormalFloats(run.rng(), heads * (2 * kReach + 1))), kReach};
}

template <class T>
void GroupedCase(OpRun& run, const GroupedShape& s, int64_t num_tokens, Compute compute) {
  const int64_t kv_size = s.kv_heads * s.head_dim, q_size = num_tokens * s.heads * s.head_dim;
  GroupedAttentionArgs args;
  args.q = run.Input(NormalFloats(run.rng(), q_size));
  args.heads = s.heads;
  args.kv_heads = s.kv_heads;
  args.head_dim = s.head_dim;
  args.scale = 0.3f;
  args.keys = s.keys;
  if (run.rng()() % 2 == 0) args.sinks = run.Input(NormalFloats(run.rng(), s.heads));
  if (run.rng()() % 2 == 0) args.bias = Bias(run, s.heads);
  // As an encoder's tokens and those that attend to it: keys behind their own, or fewer.
  const bool has_last = s.keys.kind == Kind::kAll && run.rng()() % 2 == 0;
  if (has_last) args.last_key = run.Input(UniformInts(run.rng(), num_tokens, 0, 2 * kCacheBlockTokens));
  args.tokens = Positions(run, num_tokens);
  args.cache = Cache<T>(run, kv_size, kv_size);
  args.out = run.Output<float>("out", q_size);
  args.compute = compute;
  GroupedAttention(run.stream(), args);
}

TEST_F(AttentionCudaTest, GroupedAttention) {
  for (const GroupedShape& s : kGroupedShapes) {
    for (int64_t num_tokens : {0, 1, 2, 7}) {
      for (Compute compute : {Compute::kF32, Compute::kBF16}) {
        SCOPED_TRACE(testing::Message() << num_tokens << " tokens, " << s.heads << " heads of " << s.head_dim
                                        << (compute == Compute::kF32 ? "" : ", bf16"));
        ExpectSameBits([&](OpRun& run) { GroupedCase<float>(run, s, num_tokens, compute); });
        // On tensor cores: grouped_attention_mma_cuda_test.cc.
        if (compute == Compute::kBF16 && s.head_dim % 16 == 0) continue;
        ExpectSameBits([&](OpRun& run) { GroupedCase<BF16>(run, s, num_tokens, compute); });
      }
    }
  }
}

}  // namespace
}  // namespace tokenferry

// The latent attention operations against the same attention computed the long way in double, and against themselves:
// a token's result may depend on its sequence alone.
#include <array>
#include <limits>

#include "tests/runtime/attention/attention_problem.h"

namespace tokenferry {
namespace {

constexpr unsigned kSeed = 31;
constexpr double kU = 0x1p-24, kUBF16 = 0x1p-8;  // unit roundoffs
// Errors below are first-order sums; their products are covered by this.
constexpr double kSecondOrder = 1.1;

std::vector<AttentionShape> Shapes() {
  const AttentionShape tiny{.heads = 4, .nope = 64, .rope = 32, .value = 64, .latent = 128};
  const AttentionShape odd{.heads = 3, .nope = 24, .rope = 8, .value = 20, .latent = 40};
  const AttentionShape smallest{.heads = 5, .nope = 1, .rope = 2, .value = 1, .latent = 1};
  std::vector<AttentionShape> shapes{tiny, odd, smallest};
  const auto add = [&](AttentionShape s, auto change) {
    change(s);
    shapes.push_back(s);
  };
  for (const AttentionShape& base : {tiny, odd}) {
    add(base, [](AttentionShape& s) { s.weights = DType::kBF16, s.cache = DType::kBF16; });
    add(base, [](AttentionShape& s) { s.weights = DType::kF8E4M3; });
    add(base, [](AttentionShape& s) {
      s.weights = DType::kF8E4M3, s.row_offset = 40, s.cache = DType::kBF16, s.compute = Compute::kBF16;
    });
    add(base, [](AttentionShape& s) { s.compute = Compute::kBF16; });
  }
  add(odd, [](AttentionShape& s) { s.weights = DType::kF8E4M3, s.scale_block = 24, s.row_offset = 5; });
  // A DeepSeek head's sizes, with a number of heads that no tile divides.
  add({.heads = 3, .nope = 128, .rope = 64, .value = 128, .latent = 512},
      [](AttentionShape& s) { s.weights = DType::kF8E4M3, s.cache = DType::kBF16; });
  return shapes;
}

class Attention : public testing::TestWithParam<AttentionShape> {};
INSTANTIATE_TEST_SUITE_P(Shapes, Attention, testing::ValuesIn(Shapes()));

// The rope key as the cache holds it, rotated in f32 and rounded to its dtype.
std::vector<double> RotatedInF32(const AttentionProblem& p, const float* x, int64_t position) {
  const int64_t dim = p.shape.rope;
  std::vector<double> out(dim);
  const float* cosines = &p.cos_sin[position * dim];
  for (int64_t i = 0; i < dim / 2; ++i) {
    const float c = cosines[i], s = cosines[dim / 2 + i];
    out[2 * i] = x[2 * i] * c - x[2 * i + 1] * s;
    out[2 * i + 1] = x[2 * i] * s + x[2 * i + 1] * c;
  }
  return out;
}

std::vector<double> Cached(const AttentionProblem& p, std::vector<double> row) {
  if (p.shape.cache == DType::kBF16) {
    for (double& x : row) x = ToFloat(ToBF16(static_cast<float>(x)));
  }
  return row;
}

// One head of one sequence in double: keys and values expanded by kv_b, plain softmax. out[t] [value], and per token
// and element the bound on what the f32 (and bf16) roundings of the operations can add up to.
class DenseHead {
 public:
  DenseHead(const AttentionProblem& p, const SequenceInput& in, int64_t head) : p_(p), in_(in), head_(head) {
    const AttentionShape& s = p.shape;
    const float* w = &p.weights[head * (s.nope + s.value) * s.latent];
    for (int64_t j = 0; j < in.length; ++j) {
      const float* c = &in.latent[j * s.latent];
      latents_.push_back(Cached(p, {c, c + s.latent}));
      ropes_.push_back(Cached(p, RotatedInF32(p, &in.key[j * s.rope], j)));
      std::vector<double> key(s.nope), key_size(s.nope), value(s.value), value_size(s.value);
      for (int64_t i = 0; i < s.nope + s.value; ++i) {
        double sum = 0, size = 0;
        for (int64_t k = 0; k < s.latent; ++k) {
          sum += w[i * s.latent + k] * latents_[j][k];
          size += std::abs(w[i * s.latent + k] * latents_[j][k]);
        }
        (i < s.nope ? key[i] : value[i - s.nope]) = sum;
        (i < s.nope ? key_size[i] : value_size[i - s.nope]) = size;
      }
      keys_.push_back(key), key_sizes_.push_back(key_size), values_.push_back(value),
          value_sizes_.push_back(value_size);
    }
  }

  void Compute(int64_t t, std::vector<double>& out, std::vector<double>& bound) const {
    const AttentionShape& s = p_.shape;
    const float* q = &in_.q[(t * s.heads + head_) * (s.nope + s.rope)];
    const std::vector<double> q_rope = RotatedInF32(p_, q + s.nope, t);
    std::vector<double> scores(t + 1);
    double max = -std::numeric_limits<double>::infinity(), size = 0;  // of the terms a score is summed from
    for (int64_t j = 0; j <= t; ++j) {
      double terms = 0;
      for (int64_t i = 0; i < s.nope; ++i) scores[j] += q[i] * keys_[j][i], terms += std::abs(q[i]) * key_sizes_[j][i];
      for (int64_t i = 0; i < s.rope; ++i) {
        scores[j] += q_rope[i] * ropes_[j][i], terms += std::abs(q_rope[i] * ropes_[j][i]);
      }
      scores[j] *= p_.scale;
      max = std::max(max, scores[j]);
      size = std::max(size, terms * p_.scale);
    }
    double sum = 0;
    out.assign(s.value, 0), bound.assign(s.value, 0);
    for (int64_t j = 0; j <= t; ++j) sum += std::exp(scores[j] - max);
    for (int64_t j = 0; j <= t; ++j) {
      const double weight = std::exp(scores[j] - max) / sum;
      for (int64_t v = 0; v < s.value; ++v) {
        out[v] += weight * values_[j][v], bound[v] += weight * value_sizes_[j][v];
      }
    }
    for (double& b : bound) b *= RelativeError(t + 1, size);
  }

 private:
  // Relative error of sum_j P_j |W_vc c_jc|. A score is off by E: nope roundings in the absorbed query, a lane's chain
  // and its tree in the dot product, one for the scale. A weight exp(score - max) is then off by a factor within
  // exp(2 E + (2 |score| range + 2 ulp of exp) u), since it stands over a sum of weights with the same error. Each of
  // the blocks before adds its rescaling: the same range over all of them, and 4 roundings. The sums over keys add a
  // rounding per key (twice: numerator, denominator), the product with W_UV its chain and tree. In bf16 there are 3
  // roundings in front of a score (query, weight, absorbed query) and 2 in front of the last product.
  double RelativeError(double num_keys, double score_size) const {
    const AttentionShape& s = p_.shape;
    const double width = static_cast<double>(s.latent + s.rope), blocks = std::ceil(num_keys / kCacheBlockTokens);
    const double bf16 = s.compute == Compute::kBF16 ? kUBF16 : 0;
    const double score_error = score_size * ((s.nope + width / 16 + 6) * kU + 3 * bf16);
    const double range = 2 * score_size;
    const double weights = 2 * score_error + (4 * range + 4 + 4 * blocks) * kU;
    const double sums = (2 * num_keys + static_cast<double>(s.latent) / 16 + 8) * kU + 2 * bf16;
    return kSecondOrder * std::expm1(weights + sums);
  }

  const AttentionProblem& p_;
  const SequenceInput& in_;
  const int64_t head_;
  std::vector<std::vector<double>> latents_, ropes_, keys_, key_sizes_, values_, value_sizes_;
};

TEST_P(Attention, AgreesWithExpandedKeysAndValuesInDouble) {
  const AttentionProblem p = MakeProblem(GetParam(), {135, 1, 64}, kSeed);
  const CpuDeviceOptions best{.num_threads = 2, .isa = BestIsa(SupportedIsas())};
  const AttentionResult got = RunAttention(best, p, Batched(p, 50));
  const AttentionShape& s = p.shape;
  std::vector<double> want, bound;
  double largest = 0;
  for (size_t seq = 0; seq < p.sequences.size(); ++seq) {
    for (int64_t h = 0; h < s.heads; ++h) {
      const DenseHead head(p, p.sequences[seq], h);
      for (int64_t t = 0; t < p.sequences[seq].length; ++t) {
        head.Compute(t, want, bound);
        for (int64_t v = 0; v < s.value; ++v) {
          const float x = got.out[seq][(t * s.heads + h) * s.value + v];
          ASSERT_LE(std::abs(x - want[v]), bound[v])
              << "sequence " << seq << " token " << t << " head " << h << " value " << v;
          largest = std::max(largest, std::abs(x - want[v]) / bound[v]);
        }
      }
    }
  }
  RecordProperty("largest_error_over_bound", std::to_string(largest));
}

TEST_P(Attention, FastKernelsEqualTheReferenceBitForBit) {
  const AttentionProblem p = MakeProblem(GetParam(), {70, 3, 0, 1}, kSeed + 1);
  std::vector<Step> steps = Batched(p, 66);
  steps.push_back({});  // a step without tokens
  const AttentionResult want = RunAttention(ReferenceDevice(), p, steps);
  for (const CpuDeviceOptions& options : FastDevices()) {
    EXPECT_TRUE(RunAttention(options, p, steps) == want) << options;
  }
}

TEST_P(Attention, DoesNotDependOnChunksOrBlocks) {
  const AttentionProblem p = MakeProblem(GetParam(), {201}, kSeed + 2);
  const CpuDeviceOptions best{.num_threads = 2, .isa = BestIsa(SupportedIsas())};
  const AttentionResult whole = RunAttention(best, p, Chunked(p, 201));
  for (int64_t chunk : {1, 7, 64, 100}) {
    EXPECT_TRUE(RunAttention(best, p, Chunked(p, chunk)) == whole) << "chunks of " << chunk;
  }
  for (unsigned block_seed : {5u, 6u}) {
    EXPECT_TRUE(RunAttention(best, p, Chunked(p, 100), block_seed) == whole) << "blocks permuted, seed " << block_seed;
  }
}

TEST_P(Attention, DoesNotDependOnWhatElseIsInTheBatch) {
  const AttentionProblem p = MakeProblem(GetParam(), {129, 64, 7, 65, 0, 128}, kSeed + 3);
  const CpuDeviceOptions best{.num_threads = 3, .isa = BestIsa(SupportedIsas())};
  const AttentionResult alone = RunAttention(best, p, Chunked(p, 1000));
  for (int64_t chunk : {1, 60, 1000}) {
    EXPECT_TRUE(RunAttention(best, p, Batched(p, chunk), 9) == alone) << "batches of chunks of " << chunk;
  }
  // One token per piece, sequences interleaved and in another order, prefill beside decode.
  std::vector<Step> mixed{{{5, 0, 100}, {0, 0, 128}}, {{0, 128, 129}, {5, 100, 128}, {2, 0, 7}}};
  Step interleaved;
  for (int64_t t = 0; t < 65; ++t) {
    interleaved.push_back({3, t, t + 1});
    if (t < 64) interleaved.push_back({1, t, t + 1});
  }
  mixed.push_back(interleaved);
  EXPECT_TRUE(RunAttention(best, p, mixed) == alone);
}

// What a step of fixed shape has where it has no token: nothing is read of its sequence, and nothing of it stays.
TEST(AttentionNumbers, ANegativePositionIsNoToken) {
  constexpr int32_t kHeads = 3, kNope = 4, kRope = 2;
  constexpr int64_t kLatent = 16, kTokens = 5, kWidth = kLatent + kRope, kBlocks = 2;
  std::mt19937 rng(kSeed);
  const std::vector<float> keys = RandomNormal(rng, kBlocks * kCacheBlockTokens * kWidth);
  const std::vector<float> q_latent = RandomNormal(rng, kTokens * kHeads * kLatent);
  const std::vector<float> q = RandomNormal(rng, kTokens * kHeads * (kNope + kRope));
  const std::vector<float> rows = RandomNormal(rng, kTokens * kWidth);
  const auto run = [&](const CpuDeviceOptions& options, const std::vector<int32_t>& position) {
    TestDevice device(options);
    const Buffer cache = device.Upload(keys), table = device.Upload(std::vector<int32_t>{1, 0});
    const Buffer seq = device.Upload(std::vector<int32_t>{0, 0, 1 << 20, 1, 1 << 20}), at = device.Upload(position);
    const Buffer latent = device.Upload(q_latent), rope_q = device.Upload(q), written = device.Upload(rows);
    const Buffer rotated = device.Upload(rows), cos_sin = device.Upload(std::vector<float>(70 * kRope, 0.5f));
    const Buffer out = device.Upload(std::vector<float>(kTokens * kHeads * kLatent, 77.0f));
    const TokenPositions tokens{seq.as<int32_t>(), at.as<int32_t>(), kTokens};
    const CacheView view{cache.data(), DType::kF32, kLatent, kRope, table.as<int32_t>(), 1};
    Rotate(device.stream(), {rotated.as<float>(), kWidth, 0, 1, kRope, cos_sin.as<float>(), tokens});
    CacheWrite(device.stream(), {written.as<float>(), kWidth, written.as<float>() + kLatent, kWidth, tokens, view});
    LatentAttention(device.stream(), {latent.as<float>(), rope_q.as<float>(), kHeads, kNope, kRope, 0.3f, tokens, view,
                                      out.as<float>(), Compute::kF32});
    return std::array{device.Download<float>(out), device.Download<float>(cache), device.Download<float>(rotated)};
  };
  const std::vector<int32_t> none(kTokens, -1), some = {3, -1, -1, 40, -1};
  const auto want = run(ReferenceDevice(), some);
  std::vector<CpuDeviceOptions> devices = FastDevices();
  devices.push_back(ReferenceDevice());
  for (const CpuDeviceOptions& options : devices) {
    const auto nothing = run(options, none), got = run(options, some);
    EXPECT_EQ(nothing[0], std::vector<float>(kTokens * kHeads * kLatent, 0.0f)) << options;
    EXPECT_TRUE(SameBits(nothing[1], keys) && SameBits(nothing[2], rows)) << options;
    for (size_t i = 0; i < want.size(); ++i) EXPECT_TRUE(SameBits(got[i], want[i])) << options << ", result " << i;
  }
  EXPECT_FALSE(SameBits(want[1], keys));
}

TEST(AttentionNumbers, HugeAndEqualScoresStayFinite) {
  AttentionShape shape{.heads = 2, .nope = 4, .rope = 2, .value = 3, .latent = 16};
  AttentionProblem p = MakeProblem(shape, {130}, kSeed + 4);
  for (float& x : p.sequences[0].q) x *= 1e4f;
  std::fill_n(p.sequences[0].q.begin(), 6 * 65, 0.0f);  // the first tokens weigh all keys alike
  const AttentionResult want = RunAttention(ReferenceDevice(), p, Chunked(p, 130));
  for (float x : want.out[0]) ASSERT_TRUE(std::isfinite(x));
  for (const CpuDeviceOptions& options : FastDevices()) {
    EXPECT_TRUE(RunAttention(options, p, Chunked(p, 130)) == want) << options;
  }
}

}  // namespace
}  // namespace tokenferry

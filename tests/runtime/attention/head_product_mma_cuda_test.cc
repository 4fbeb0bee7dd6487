// AbsorbQuery and ExpandValue in bf16 on tensor cores: near the exact result, codes are what they are when widened, and
// a token's bits are its own.
#include <cmath>
#include <cstring>

#include "runtime/attention/attention_ops.h"
#include "tests/support/cuda_compare.h"
#include "tests/support/seeds.h"

namespace tokenferry::head_product {
namespace {

struct Shape {
  int32_t heads, nope, rope, value;
  int64_t latent;
};
// Odd sizes; more inputs than a step and more outputs than a tile has, either way.
const std::vector<Shape> kShapes = {{1, 1, 2, 1, 1}, {3, 17, 6, 33, 40}, {2, 72, 4, 130, 136}};
constexpr Shape kSmall = {2, 5, 2, 3, 64};  // of codes; a block of GGUF files may be 256 long

// Inputs of both products, and what they are.
struct Problem {
  Shape shape;
  int64_t num_tokens = 0;
  std::vector<float> q, u;  // [T, heads, nope + rope], [T, heads, latent]

  Problem(const Shape& s, int64_t tokens, uint32_t seed) : shape(s), num_tokens(tokens) {
    std::mt19937 rng(seed);
    q = NormalFloats(rng, tokens * s.heads * (s.nope + s.rope));
    u = NormalFloats(rng, tokens * s.heads * s.latent);
  }
  int64_t weight_rows() const { return int64_t{shape.heads} * (shape.nope + shape.value); }
};

struct Products {
  std::vector<float> absorbed, expanded;  // [T, heads, latent], [T, heads, value]
  bool operator==(const Products&) const = default;
};

std::vector<float> Floats(const std::vector<uint8_t>& bytes) {
  std::vector<float> values((bytes.size() - OpRun::kGuardBytes) / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

// `weight` makes kv_b.
Products RunProducts(Device& device, const Problem& p, Compute compute,
                     const std::function<WeightView(OpRun&)>& weight) {
  OpRun run(device, 7);
  const Shape& s = p.shape;
  const WeightView kv_b = weight(run);
  float* absorbed = run.Output<float>("absorbed", p.num_tokens * s.heads * s.latent);
  AbsorbQuery(run.stream(), {run.Input(p.q), p.num_tokens, s.heads, s.nope, s.rope, s.value, kv_b, absorbed, compute});
  float* expanded = run.Output<float>("expanded", p.num_tokens * s.heads * s.value);
  ExpandValueArgs expand{run.Input(p.u), p.num_tokens, s.heads, s.nope, s.value, kv_b, expanded, compute};
  ExpandValue(run.stream(), expand);
  const int64_t num_values = p.num_tokens * s.heads * s.value;
  if (compute == Compute::kBF16) {
    expand.rounded = run.Output<BF16>("rounded", num_values);
    ExpandValue(run.stream(), expand);
  }
  const auto results = run.Finish();
  EXPECT_TRUE(results.ok()) << results.status();
  if (!results.ok()) return {};
  for (const auto& result : *results) {
    for (size_t i = result.bytes.size() - OpRun::kGuardBytes; i < result.bytes.size(); ++i) {
      EXPECT_EQ(result.bytes[i], 0xEE) << result.name << ": behind the end";
    }
  }
  const Products products = {Floats(results->at(0).bytes), Floats(results->at(1).bytes)};
  if (compute == Compute::kBF16) {
    std::vector<BF16> rounded(num_values);
    std::memcpy(rounded.data(), results->at(2).bytes.data(), num_values * sizeof(BF16));
    for (int64_t i = 0; i < num_values; ++i) EXPECT_EQ(rounded[i], ToBF16(products.expanded[i])) << i;
  }
  return products;
}

std::function<WeightView(OpRun&)> BF16Weight(const std::vector<BF16>& values, int64_t cols) {
  return [&values, cols](OpRun& run) {
    return WeightView{
        .format = {.dtype = DType::kBF16}, .data = run.Input(values), .rows = std::ssize(values) / cols, .cols = cols};
  };
}

double Rounded(float x) { return ToFloat(ToBF16(x)); }

class HeadProductMmaCudaTest : public CudaCompareTest {
 protected:
  // An instruction adds 16 products, exact, to a sum, with one rounding of 2^-23 of the sum of magnitudes; two more for
  // its order inside (matmul_mma.h).
  static void ExpectNear(float got, int64_t num_inputs, const std::function<double(int64_t)>& product) {
    double sum = 0, magnitude = 0;
    for (int64_t k = 0; k < num_inputs; ++k) sum += product(k), magnitude += std::fabs(product(k));
    ASSERT_LE(std::fabs(got - sum), (num_inputs / 16 + 3) * 0x1p-23 * magnitude * 1.001);
  }
  void ExpectNear(const Problem& p, uint32_t seed) {
    const Shape& s = p.shape;
    std::mt19937 rng(seed);
    const auto w = NormalValues<BF16>(rng, p.weight_rows() * s.latent);
    const Products got = RunProducts(*cuda_, p, Compute::kBF16, BF16Weight(w, s.latent));
    for (int64_t t = 0; t < p.num_tokens; ++t) {
      for (int64_t h = 0; h < s.heads; ++h) {
        const int64_t row = t * s.heads + h, first = h * (s.nope + s.value);
        for (int64_t c = 0; c < s.latent; ++c) {
          ExpectNear(got.absorbed[row * s.latent + c], s.nope, [&](int64_t i) {
            return Rounded(p.q[row * (s.nope + s.rope) + i]) * ToFloat(w[(first + i) * s.latent + c]);
          });
        }
        for (int64_t j = 0; j < s.value; ++j) {
          ExpectNear(got.expanded[row * s.value + j], s.latent, [&](int64_t c) {
            return Rounded(p.u[row * s.latent + c]) * ToFloat(w[(first + s.nope + j) * s.latent + c]);
          });
        }
        if (HasFailure()) return;
      }
    }
  }

  // The values of a weight, by what the CPU's f32 makes of it for inputs of which one is 1.
  std::vector<BF16> Widened(const Shape& s, const std::function<WeightView(OpRun&)>& weight) {
    Problem p(s, std::max<int64_t>(s.nope, s.latent), 0);
    std::fill(p.q.begin(), p.q.end(), 0.0f), std::fill(p.u.begin(), p.u.end(), 0.0f);
    for (int64_t t = 0; t < p.num_tokens; ++t) {
      for (int64_t h = 0; h < s.heads; ++h) {
        if (t < s.nope) p.q[(t * s.heads + h) * (s.nope + s.rope) + t] = 1;
        if (t < s.latent) p.u[(t * s.heads + h) * s.latent + t] = 1;
      }
    }
    const Products values = RunProducts(*reference_, p, Compute::kF32, weight);
    std::vector<BF16> widened(p.weight_rows() * s.latent);
    for (int64_t h = 0; h < s.heads; ++h) {
      for (int64_t c = 0; c < s.latent; ++c) {
        const int64_t first = h * (s.nope + s.value);
        for (int64_t i = 0; i < s.nope; ++i)
          widened[(first + i) * s.latent + c] = ToBF16(values.absorbed[(i * s.heads + h) * s.latent + c]);
        for (int64_t j = 0; j < s.value; ++j)
          widened[(first + s.nope + j) * s.latent + c] = ToBF16(values.expanded[(c * s.heads + h) * s.value + j]);
      }
    }
    return widened;
  }
};

TEST_F(HeadProductMmaCudaTest, IsNearTheExactResult) {
  for (const Shape& shape : kShapes) {
    for (const int64_t num_tokens : {0, 1, 2, 7, 70}) {
      SCOPED_TRACE(testing::Message() << num_tokens << " tokens, latent " << shape.latent);
      for (int seed = 0; seed < NumTestSeeds(num_tokens < 7 ? 10 : 1); ++seed) {
        ExpectNear(Problem(shape, num_tokens, seed), seed + 100);
      }
    }
  }
}

TEST_F(HeadProductMmaCudaTest, CodesAreWhatTheyAreWorth) {
  std::vector<WeightFormat> formats = kWeightFormats;
  formats.insert(formats.end(), kCodes.begin(), kCodes.end());
  for (const WeightFormat& format : BlockFormats()) formats.push_back(format);
  for (const WeightFormat& format : formats) {
    SCOPED_TRACE(ToString(format));
    Shape shape = kSmall;
    if (BlockWeights::Matches(format)) shape.latent = BlockOf(format.dtype).elements;
    const Problem p(shape, 5, 3);
    const auto coded = [&](OpRun& run) { return RandomWeight(run, format, p.weight_rows(), shape.latent); };
    const std::vector<BF16> widened = Widened(shape, coded);
    EXPECT_EQ(RunProducts(*cuda_, p, Compute::kBF16, coded),
              RunProducts(*cuda_, p, Compute::kBF16, BF16Weight(widened, shape.latent)));
  }
}

TEST_F(HeadProductMmaCudaTest, ATokensBitsAreItsOwn) {
  const Shape shape = kShapes.back();
  const Problem all(shape, 70, 5);
  std::mt19937 rng(6);
  const auto w = NormalValues<BF16>(rng, all.weight_rows() * shape.latent);
  const Products together = RunProducts(*cuda_, all, Compute::kBF16, BF16Weight(w, shape.latent));
  for (const int64_t t : {0, 63, 69}) {
    Problem one(shape, 1, 0);
    const auto row = [t](const std::vector<float>& x, int64_t size) {
      return std::vector<float>(x.begin() + t * size, x.begin() + (t + 1) * size);
    };
    one.q = row(all.q, std::ssize(one.q)), one.u = row(all.u, std::ssize(one.u));
    const Products alone = RunProducts(*cuda_, one, Compute::kBF16, BF16Weight(w, shape.latent));
    EXPECT_EQ(alone.absorbed, row(together.absorbed, std::ssize(alone.absorbed))) << t;
    EXPECT_EQ(alone.expanded, row(together.expanded, std::ssize(alone.expanded))) << t;
  }
}

}  // namespace
}  // namespace tokenferry::head_product

// Gated delta nets: the kernels against the reference bit for bit, any cut against the whole, both layouts of the
// projections, and all of it against the formulas in double precision.
#include "runtime/attention/gated_delta.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/support/device_cases.h"

namespace tokenferry {
namespace {

constexpr unsigned kDeltaSeed = 31;
constexpr float kDeltaNormEps = 1e-6f;

struct DeltaCase {
  DeltaShape shape;
  std::vector<int64_t> lengths;  // of sequences
};

const DeltaCase kDeltaCases[] = {
    {{.num_key_heads = 1, .num_value_heads = 1, .key_dim = 5, .value_dim = 3, .conv_size = 1}, {4, 1}},
    {{.num_key_heads = 2, .num_value_heads = 6, .key_dim = 16, .value_dim = 20, .conv_size = 4}, {9, 2, 23}},
    {{.num_key_heads = 3, .num_value_heads = 3, .key_dim = 33, .value_dim = 81, .conv_size = 3}, {1, 12}},
};

// A piece [begin, end) of a sequence's tokens.
struct DeltaPiece {
  int32_t seq;
  int64_t begin, end;
};

// Inputs by sequence, as DeltaProjections::kApart has them: q | k | v, z, b, a side by side in one row.
class DeltaProblem {
 public:
  explicit DeltaProblem(const DeltaCase& c) : shape_(c.shape) {
    std::mt19937 rng(kDeltaSeed);
    for (const int64_t n : c.lengths) inputs_.push_back(RandomNormal(rng, n * row()));
    weight_ = RandomNormal(rng, shape_.conv_size * shape_.num_channels(), 0.5f);
    a_log_ = RandomNormal(rng, shape_.num_value_heads);
    dt_bias_ = RandomNormal(rng, shape_.num_value_heads);
    dt_bias_[0] += 25;  // beyond the bend of softplus
    norm_ = RandomNormal(rng, shape_.value_dim);
  }

  int64_t row() const { return shape_.num_channels() + shape_.values_size() + 2 * shape_.num_value_heads; }
  int64_t length(int32_t seq) const { return static_cast<int64_t>(inputs_[seq].size()) / row(); }
  int32_t num_seqs() const { return static_cast<int32_t>(inputs_.size()); }

  // Of a token, with the groups of key heads side by side: q, k, v, z, b, a of one, then of the next.
  std::vector<float> Grouped(const float* token) const {
    const DeltaShape& s = shape_;
    const int64_t keys = s.num_key_heads * s.key_dim, r = s.values_per_key(), values = s.values_size();
    const float *z = token + s.num_channels(), *b = z + values, *a = b + s.num_value_heads;
    std::vector<float> out;
    const auto add = [&](const float* from, int64_t size) { out.insert(out.end(), from, from + size); };
    for (int64_t g = 0; g < s.num_key_heads; ++g) {
      add(token + g * s.key_dim, s.key_dim);
      add(token + keys + g * s.key_dim, s.key_dim);
      add(token + 2 * keys + g * r * s.value_dim, r * s.value_dim);
      add(z + g * r * s.value_dim, r * s.value_dim);
      add(b + g * r, r);
      add(a + g * r, r);
    }
    return out;
  }

  // By sequence [length, values_size]. Each inner list of `steps` is one step; states are in reversed slots, and full
  // of NaN before their sequences start.
  std::vector<std::vector<float>> Run(const CpuDeviceOptions& options,
                                      const std::vector<std::vector<DeltaPiece>>& steps, bool grouped = false) const {
    TestDevice device(options);
    const DeltaShape& s = shape_;
    std::vector<int32_t> slots(num_seqs());
    for (int32_t i = 0; i < num_seqs(); ++i) slots[i] = num_seqs() - 1 - i;
    const Buffer slot_buf = device.Upload(slots);
    const Buffer state = device.Upload(std::vector<float>(num_seqs() * s.state_size(), NAN));
    const Buffer weight = device.Upload(weight_), a_log = device.Upload(a_log_), bias = device.Upload(dt_bias_);
    const Buffer norm = device.Upload(norm_);
    std::vector<std::vector<float>> result(num_seqs());
    for (const auto& step : steps) {
      std::vector<float> rows;
      std::vector<int32_t> seq = {0}, position = {-1};  // the first row is no token
      rows.resize(row());
      for (const DeltaPiece& piece : step) {
        for (int64_t t = piece.begin; t < piece.end; ++t) {
          const float* token = inputs_[piece.seq].data() + t * row();
          const std::vector<float> taken = grouped ? Grouped(token) : std::vector<float>(token, token + row());
          rows.insert(rows.end(), taken.begin(), taken.end());
          seq.push_back(piece.seq);
          position.push_back(static_cast<int32_t>(t));
        }
      }
      const auto T = static_cast<int64_t>(seq.size());
      const Buffer in = device.Upload(rows), seq_buf = device.Upload(seq), position_buf = device.Upload(position);
      const Buffer qkv = device.Allocate<float>(T * s.num_channels()),
                   out = device.Allocate<float>(T * s.values_size());
      const TokenPositions tokens{seq_buf.as<int32_t>(), position_buf.as<int32_t>(), T};
      const StateView view{state.as<float>(), s.state_size(), slot_buf.as<int32_t>()};
      const int64_t keys = s.num_key_heads * s.key_dim, r = s.values_per_key(), values = r * s.value_dim;
      const int64_t group = row() / s.num_key_heads;
      const auto part = [&](int64_t apart, int64_t apart_group, int64_t within) {
        return HeadGroups{in.as<float>() + (grouped ? within : apart), row(), grouped ? group : apart_group};
      };
      const int64_t z = s.num_channels(), b = z + s.values_size(), a = b + s.num_value_heads;
      DeltaInputs(device.stream(), {.q = part(0, s.key_dim, 0),
                                    .k = part(keys, s.key_dim, s.key_dim),
                                    .v = part(2 * keys, values, 2 * s.key_dim),
                                    .weight = weight.as<float>(),
                                    .shape = s,
                                    .tokens = tokens,
                                    .state = view,
                                    .out = qkv.as<float>()});
      GatedDelta(device.stream(), {.qkv = qkv.as<float>(),
                                   .z = part(z, values, 2 * s.key_dim + values),
                                   .b = part(b, r, 2 * s.key_dim + 2 * values),
                                   .a = part(a, r, 2 * s.key_dim + 2 * values + r),
                                   .a_log = a_log.as<float>(),
                                   .dt_bias = bias.as<float>(),
                                   .norm = norm.as<float>(),
                                   .norm_eps = kDeltaNormEps,
                                   .shape = s,
                                   .tokens = tokens,
                                   .state = view,
                                   .out = out.as<float>()});
      const std::vector<float> got = device.Download<float>(out);
      EXPECT_TRUE(std::all_of(got.begin(), got.begin() + s.values_size(), [](float x) { return x == 0; }));
      auto from = got.begin() + s.values_size();
      for (const DeltaPiece& piece : step) {
        const int64_t size = (piece.end - piece.begin) * s.values_size();
        result[piece.seq].insert(result[piece.seq].end(), from, from + size);
        from += size;
      }
    }
    return result;
  }

  std::vector<std::vector<DeltaPiece>> Whole() const { return InChunks(1'000'000); }
  std::vector<std::vector<DeltaPiece>> InChunks(int64_t chunk) const {
    std::vector<std::vector<DeltaPiece>> steps;
    for (int64_t begin = 0;; begin += chunk) {
      std::vector<DeltaPiece> step;
      for (int32_t i = 0; i < num_seqs(); ++i) {
        if (begin < length(i)) step.push_back({i, begin, std::min(begin + chunk, length(i))});
      }
      if (step.empty()) return steps;
      steps.push_back(step);
    }
  }

  // The formulas in double, and how far f32 may be from them: a bound on the first-order effect of its roundings, each
  // at most kUnit = 2^-24 of what it rounds. ExpF32 is within 4 kUnit, so that a sigmoid is within 7 and silu within 8;
  // a sum of n products of two vectors is within n * kUnit of the product of their lengths. A column s of the state
  // goes to (1 - beta k k^T) decay s + beta k v, and the length of that matrix is at most 1: what is wrong with a
  // column never grows, and every token adds what its own roundings make.
  struct Bounded {
    std::vector<double> value, bound;
  };
  Bounded InDouble(int32_t seq) const {
    const DeltaShape& s = shape_;
    std::vector<double> state(s.num_value_heads * s.key_dim * s.value_dim);
    std::vector<double> wrong(s.num_value_heads * s.value_dim);  // length of what is wrong with each column
    Bounded out;
    for (int64_t t = 0; t < length(seq); ++t) {
      const Channels y = ChannelsInDouble(seq, t);
      for (int64_t h = 0; h < s.num_value_heads; ++h) {
        HeadInDouble(seq, t, h, y, &state[h * s.key_dim * s.value_dim], &wrong[h * s.value_dim], out);
      }
    }
    return out;
  }

 private:
  static constexpr double kUnit = 1.0 / (1 << 24);
  static double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
  double In(int32_t seq, int64_t t, int64_t i) const { return static_cast<double>(inputs_[seq][t * row() + i]); }

  // Queries, keys and values of a token; `wrong` has the bound of each value, and of each head of queries and keys the
  // bound of the length of what is wrong with it.
  struct Channels {
    std::vector<double> y, wrong, head_wrong;
  };
  Channels ChannelsInDouble(int32_t seq, int64_t t) const {
    const DeltaShape& s = shape_;
    const int64_t C = s.num_channels();
    Channels out{std::vector<double>(C), std::vector<double>(C), {}};
    for (int64_t c = 0; c < C; ++c) {
      double sum = 0, magnitude = 0;
      for (int64_t j = 0; j < s.conv_size; ++j) {
        const int64_t from = t - s.conv_size + 1 + j;
        if (from < 0) continue;
        const double product = weight_[j * C + c] * In(seq, from, c);
        sum += product;
        magnitude += std::abs(product);
      }
      out.y[c] = sum * Sigmoid(sum);
      // The slope of silu is at most 1.1.
      out.wrong[c] = 1.1 * static_cast<double>(s.conv_size + 1) * kUnit * magnitude + 8 * kUnit * std::abs(out.y[c]);
    }
    for (int64_t h = 0; h < 2 * s.num_key_heads; ++h) {
      double squares = 1e-6, wrong_squares = 0;
      for (int64_t c = h * s.key_dim; c < (h + 1) * s.key_dim; ++c) {
        squares += out.y[c] * out.y[c];
        wrong_squares += out.wrong[c] * out.wrong[c];
      }
      const double scale = h < s.num_key_heads ? 1 / std::sqrt(static_cast<double>(s.key_dim)) : 1;
      for (int64_t c = h * s.key_dim; c < (h + 1) * s.key_dim; ++c) out.y[c] *= scale / std::sqrt(squares);
      // Its direction, and twice as much as its length may be wrong, and the roundings of sum, root and products.
      out.head_wrong.push_back(scale *
                               (2 * std::sqrt(wrong_squares / squares) + static_cast<double>(s.key_dim + 6) * kUnit));
    }
    return out;
  }

  // One token's step of a value head: its state [key_dim, value_dim], and what may be wrong with each column.
  void HeadInDouble(int32_t seq, int64_t t, int64_t h, const Channels& channels, double* state, double* wrong,
                    Bounded& out) const {
    const DeltaShape& s = shape_;
    const int64_t C = s.num_channels(), g = h / s.values_per_key(), keys = s.num_key_heads * s.key_dim;
    const double *q = &channels.y[g * s.key_dim], *k = &channels.y[keys + g * s.key_dim];
    const double q_wrong = channels.head_wrong[g], k_wrong = channels.head_wrong[s.num_key_heads + g];
    const double q_length = 1 / std::sqrt(static_cast<double>(s.key_dim)), sum_unit = s.key_dim * kUnit;
    const double x = In(seq, t, C + s.values_size() + s.num_value_heads + h) + dt_bias_[h];
    const double rate = std::exp(static_cast<double>(a_log_[h])), exponent = rate * std::log1p(std::exp(x));
    const double decay = std::exp(-exponent), beta = Sigmoid(In(seq, t, C + s.values_size() + h));
    // Of the exponent: two exponentials, a logarithm and their products, and of x, whose slope is at most the rate.
    const double decay_wrong = decay * kUnit * (12 * exponent + rate * std::abs(x) + 4);
    std::vector<double> o(s.value_dim), o_wrong(s.value_dim);
    double squares = 0, wrong_squares = 0;
    for (int64_t j = 0; j < s.value_dim; ++j) {
      const auto at = [&](int64_t i) -> double& { return state[i * s.value_dim + j]; };
      double predicted = 0, before = 0, after = 0;
      for (int64_t i = 0; i < s.key_dim; ++i) {
        before += at(i) * at(i);
        predicted += k[i] * (at(i) *= decay);
      }
      const int64_t channel = 2 * keys + h * s.value_dim + j;
      const double v = channels.y[channel], delta = beta * (v - predicted);
      for (int64_t i = 0; i < s.key_dim; ++i) {
        at(i) += k[i] * delta;
        o[j] += q[i] * at(i);
        after += at(i) * at(i);
      }
      before = std::sqrt(before), after = std::sqrt(after);
      const double predicted_wrong = (k_wrong + sum_unit) * decay * before;
      const double delta_wrong =
          beta * (channels.wrong[channel] + predicted_wrong + 8 * kUnit * std::abs(v - predicted)) +
          2 * kUnit * std::abs(delta);
      wrong[j] = decay * wrong[j] + (decay_wrong + kUnit * decay) * before + delta_wrong + k_wrong * std::abs(delta) +
                 kUnit * after;
      o_wrong[j] = q_length * wrong[j] + (q_wrong + sum_unit * q_length) * after;
      squares += o[j] * o[j];
      wrong_squares += o_wrong[j] * o_wrong[j];
    }
    const double size = static_cast<double>(s.value_dim), root = std::sqrt(squares / size + kDeltaNormEps);
    for (int64_t j = 0; j < s.value_dim; ++j) {
      const double z = In(seq, t, C + h * s.value_dim + j), gate = norm_[j] * z * Sigmoid(z);
      out.value.push_back(o[j] / root * gate);
      // Of o, of the root, and the roundings of the sum below it and of the products.
      out.bound.push_back(std::abs(gate) / root *
                              (o_wrong[j] + std::abs(o[j]) / root * std::sqrt(wrong_squares / size)) +
                          (size / 2 + 16) * kUnit * std::abs(out.value.back()));
    }
  }

  const DeltaShape shape_;
  std::vector<std::vector<float>> inputs_;
  std::vector<float> weight_, a_log_, dt_bias_, norm_;
};

class GatedDeltaTest : public testing::TestWithParam<DeltaCase> {
 protected:
  void SetUp() override { std::printf("seed %u\n", kDeltaSeed); }
  const DeltaProblem problem_{GetParam()};
};

TEST_P(GatedDeltaTest, KernelsCutsAndLayoutsGiveTheReferencesBits) {
  const auto want = problem_.Run(ReferenceDevice(), problem_.Whole());
  for (const CpuDeviceOptions& device : FastDevices()) {
    SCOPED_TRACE(testing::Message() << device);
    for (const int64_t chunk : {1, 2, 7, 1'000'000}) {
      const auto got = problem_.Run(device, problem_.InChunks(chunk), chunk == 7);
      for (int32_t i = 0; i < problem_.num_seqs(); ++i) {
        EXPECT_TRUE(SameBits(got[i], want[i])) << "sequence " << i << ", chunks of " << chunk;
      }
    }
  }
}

// A tenth more than the first-order bound, for what is of higher order, since the bounds are below 1e-2 where values
// are of order one. A bound adds up what some thousand roundings may do at most; they go either way, so that their sum
// grows with the root of their number and is a fiftieth of that: never more than 1e-4 (1 + |value|).
TEST_P(GatedDeltaTest, AgreesWithDoublePrecision) {
  const auto got = problem_.Run({.isa = BestIsa(SupportedIsas())}, problem_.Whole());
  double worst = 0, largest = 0;
  for (int32_t i = 0; i < problem_.num_seqs(); ++i) {
    const DeltaProblem::Bounded want = problem_.InDouble(i);
    ASSERT_EQ(got[i].size(), want.value.size());
    for (size_t k = 0; k < want.value.size(); ++k) {
      ASSERT_NEAR(got[i][k], want.value[k], std::min(1.1 * want.bound[k], 1e-4 + 1e-4 * std::abs(want.value[k]))) << k;
      worst = std::max(worst, std::abs(got[i][k] - want.value[k]) / want.bound[k]);
      largest = std::max(largest, want.bound[k]);
    }
  }
  std::printf("largest difference %.3f of its bound; largest bound %.2g\n", worst, largest);
  EXPECT_LT(largest, 1e-2);
}

INSTANTIATE_TEST_SUITE_P(All, GatedDeltaTest, testing::ValuesIn(kDeltaCases));

}  // namespace
}  // namespace tokenferry

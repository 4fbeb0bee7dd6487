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

  // The formulas, in double.
  std::vector<double> InDouble(int32_t seq) const {
    const DeltaShape& s = shape_;
    const int64_t C = s.num_channels(), keys = s.num_key_heads * s.key_dim, n = length(seq);
    const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
    const auto in = [&](int64_t t, int64_t i) { return static_cast<double>(inputs_[seq][t * row() + i]); };
    std::vector<double> state(s.num_value_heads * s.key_dim * s.value_dim), out;
    for (int64_t t = 0; t < n; ++t) {
      std::vector<double> y(C);
      for (int64_t c = 0; c < C; ++c) {
        for (int64_t j = 0; j < s.conv_size; ++j) {
          const int64_t from = t - s.conv_size + 1 + j;
          if (from >= 0) y[c] += weight_[j * C + c] * in(from, c);
        }
        y[c] *= sigmoid(y[c]);
      }
      for (int64_t h = 0; h < 2 * s.num_key_heads; ++h) {
        double squares = 1e-6;
        for (int64_t i = 0; i < s.key_dim; ++i) squares += y[h * s.key_dim + i] * y[h * s.key_dim + i];
        const double scale = h < s.num_key_heads ? 1 / std::sqrt(static_cast<double>(s.key_dim)) : 1;
        for (int64_t i = 0; i < s.key_dim; ++i) y[h * s.key_dim + i] *= scale / std::sqrt(squares);
      }
      for (int64_t h = 0; h < s.num_value_heads; ++h) {
        const int64_t g = h / s.values_per_key();
        const double x = in(t, C + s.values_size() + s.num_value_heads + h) + dt_bias_[h];
        const double decay = std::exp(-std::exp(static_cast<double>(a_log_[h])) * std::log1p(std::exp(x)));
        const double beta = sigmoid(in(t, C + s.values_size() + h));
        std::vector<double> o(s.value_dim);
        double squares = 0;
        for (int64_t j = 0; j < s.value_dim; ++j) {
          const auto at = [&](int64_t i) -> double& { return state[(h * s.key_dim + i) * s.value_dim + j]; };
          double predicted = 0;
          for (int64_t i = 0; i < s.key_dim; ++i) predicted += y[keys + g * s.key_dim + i] * (at(i) *= decay);
          const double delta = beta * (y[2 * keys + h * s.value_dim + j] - predicted);
          for (int64_t i = 0; i < s.key_dim; ++i) {
            at(i) += y[keys + g * s.key_dim + i] * delta;
            o[j] += y[g * s.key_dim + i] * at(i);
          }
          squares += o[j] * o[j];
        }
        for (int64_t j = 0; j < s.value_dim; ++j) {
          const double z = in(t, C + h * s.value_dim + j);
          out.push_back(o[j] / std::sqrt(squares / static_cast<double>(s.value_dim) + kDeltaNormEps) * norm_[j] * z *
                        sigmoid(z));
        }
      }
    }
    return out;
  }

 private:
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

// Every step of a token rounds some ten times per value that it has summed, relative to values of order one; the norm
// at the end divides by how large they are, which here is at least 1e-3.
TEST_P(GatedDeltaTest, AgreesWithDoublePrecision) {
  const auto got = problem_.Run({.isa = BestIsa(SupportedIsas())}, problem_.Whole());
  for (int32_t i = 0; i < problem_.num_seqs(); ++i) {
    const std::vector<double> want = problem_.InDouble(i);
    ASSERT_EQ(got[i].size(), want.size());
    for (size_t k = 0; k < want.size(); ++k) ASSERT_NEAR(got[i][k], want[k], 1e-4 + 1e-4 * std::abs(want[k])) << k;
  }
}

INSTANTIATE_TEST_SUITE_P(All, GatedDeltaTest, testing::ValuesIn(kDeltaCases));

}  // namespace
}  // namespace tokenferry

#include "runtime/attention/gated_delta.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/check.h"
#include "core/kernels/exp.h"
#include "core/kernels/row_parallel.h"
#include "core/kernels/scratch.h"
#include "runtime/ops/row_kernels.h"

namespace tokenferry {
namespace {

constexpr float kUnitNormEps = 1e-6f;

// Tokens [begin, end) of one sequence.
struct TokenRun {
  int64_t begin = 0, end = 0;
};

std::vector<TokenRun> RunsOf(const TokenPositions& tokens) {
  std::vector<TokenRun> runs;
  for (int64_t begin = 0, end = 0; begin < tokens.num_tokens; begin = end) {
    end = begin + 1;
    if (tokens.position[begin] < 0) continue;  // no token
    while (end < tokens.num_tokens && tokens.seq[end] == tokens.seq[begin] &&
           tokens.position[end] == tokens.position[begin] + (end - begin)) {
      ++end;
    }
    runs.push_back({begin, end});
  }
  return runs;
}

// A piece of the channels that lies in one piece in a projection.
struct ChannelPart {
  int64_t first = 0, size = 0;  // channels
  const HeadGroups* from = nullptr;
  int64_t group = 0;
};

template <class Visit>
void VisitParts(const DeltaInputsArgs& a, const Visit& visit) {
  const DeltaShape& s = a.shape;
  const int64_t keys = s.num_key_heads * s.key_dim, group_values = s.values_per_key() * s.value_dim;
  for (int64_t g = 0; g < s.num_key_heads; ++g) {
    visit(ChannelPart{g * s.key_dim, s.key_dim, &a.q, g});
    visit(ChannelPart{keys + g * s.key_dim, s.key_dim, &a.k, g});
    visit(ChannelPart{2 * keys + g * group_values, group_values, &a.v, g});
  }
}

// The row of `part`'s channels that stands `back` tokens before token t; null: before the sequence's start.
const float* RowBefore(const DeltaInputsArgs& a, const TokenRun& run, const ChannelPart& part, int64_t t,
                       int64_t back) {
  if (back > a.tokens.position[t]) return nullptr;
  if (t - back >= run.begin) return part.from->at(t - back, part.group);
  const int64_t row = a.shape.conv_size - 1 - (run.begin - (t - back));
  return a.state.of(a.tokens.seq[t]) + row * a.shape.num_channels() + part.first;
}

void NormaliseHead(const RowKernels& kernels, int64_t size, float factor, float* x) {
  const Rows row{x, 1, size};
  float sum_squares;
  kernels.dot(row, row, size, &sum_squares, 1);
  const float inverse = 1.0f / std::sqrt(sum_squares + kUnitNormEps);
  for (int64_t i = 0; i < size; ++i) x[i] = x[i] * inverse * factor;
}

void ConvolveToken(const DeltaInputsArgs& a, const TokenRun& run, int64_t t, const RowKernels& kernels, float* gate) {
  const DeltaShape& s = a.shape;
  const int64_t channels = s.num_channels();
  float* const out = a.out + t * channels;
  std::fill_n(out, channels, 0.0f);
  VisitParts(a, [&](const ChannelPart& part) {
    float* const y = out + part.first;
    for (int64_t j = 0; j < s.conv_size; ++j) {
      const float* u = RowBefore(a, run, part, t, s.conv_size - 1 - j);
      const float* w = a.weight + j * channels + part.first;
      if (u == nullptr) continue;
      for (int64_t c = 0; c < part.size; ++c) y[c] += w[c] * u[c];
    }
  });
  kernels.sigmoid(out, channels, gate);
  for (int64_t c = 0; c < channels; ++c) out[c] *= gate[c];
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(s.key_dim)));
  for (int64_t h = 0; h < 2 * s.num_key_heads; ++h) {
    NormaliseHead(kernels, s.key_dim, h < s.num_key_heads ? scale : 1.0f, out + h * s.key_dim);
  }
}

// After all tokens of the run have been convolved. A row that a later one takes the place of has been read by then:
// rows move to the front, in order.
void KeepLastRows(const DeltaInputsArgs& a, const TokenRun& run) {
  const int64_t num_rows = a.shape.conv_size - 1, last = run.end - 1;
  float* const state = a.state.of(a.tokens.seq[run.begin]);
  for (int64_t row = 0; row < num_rows; ++row) {
    VisitParts(a, [&](const ChannelPart& part) {
      const float* u = RowBefore(a, run, part, last, num_rows - 1 - row);
      float* const to = state + row * a.shape.num_channels() + part.first;
      if (u == nullptr) {
        std::fill_n(to, part.size, 0.0f);
      } else {
        std::copy_n(u, part.size, to);
      }
    });
  }
}

void ClearRowsWithoutToken(const TokenPositions& tokens, int64_t cols, float* out) {
  for (int64_t t = 0; t < tokens.num_tokens; ++t) {
    if (tokens.position[t] < 0) std::fill_n(out + t * cols, cols, 0.0f);
  }
}

void DeltaInputsReference(const DeltaInputsArgs& a) {
  std::vector<float> gate(a.shape.num_channels());
  ClearRowsWithoutToken(a.tokens, a.shape.num_channels(), a.out);
  for (const TokenRun& run : RunsOf(a.tokens)) {
    for (int64_t t = run.begin; t < run.end; ++t) ConvolveToken(a, run, t, PortableRowKernels(), gate.data());
    KeepLastRows(a, run);
  }
}

void DeltaInputsCpu(const DeltaInputsArgs& a, CpuContext& context) {
  const RowKernels& kernels = RowKernelsFor(context.isa);
  const int64_t channels = a.shape.num_channels();
  const std::vector<TokenRun> runs = RunsOf(a.tokens);
  ClearRowsWithoutToken(a.tokens, channels, a.out);
  for (const TokenRun& run : runs) {
    ParallelRows(context, run.end - run.begin, channels, [&](int64_t begin, int64_t end) {
      auto* const gate = static_cast<float*>(ThreadScratch(channels * sizeof(float)));
      for (int64_t t = begin; t < end; ++t) ConvolveToken(a, run, run.begin + t, kernels, gate);
    });
  }
  for (const TokenRun& run : runs) KeepLastRows(a, run);
}

// ln(1 + y), y >= 0, in double by basic operations alone, so that it is the same everywhere: 1 + y = 2^n * m, m in
// [sqrt(1/2), sqrt(2)), and ln m = 2 atanh(s), s = (m - 1) / (m + 1), |s| < 0.172. Truncation behind s^17: below 2 *
// 0.172^19 / 19 < 4e-16.
double LogOnePlus(double y) {
  constexpr double kLn2 = 0.69314718055994530942, kRootHalf = 0.70710678118654752440;
  int exponent = 0;
  double m = std::frexp(1 + y, &exponent);  // exact
  if (m < kRootHalf) m *= 2, --exponent;
  const double s = (m - 1) / (m + 1), square = s * s;
  double sum = 0;
  for (int odd = 17; odd >= 1; odd -= 2) sum = sum * square + 1.0 / odd;
  return exponent * kLn2 + 2 * s * sum;
}

float Softplus(float x) { return x > 20 ? x : static_cast<float>(LogOnePlus(ExpF32(x))); }

// Value head h of a run, token by token. `scratch` has 2 * value_dim floats.
void RunHead(const GatedDeltaArgs& a, const TokenRun& run, int64_t h, const RowKernels& kernels, float* scratch) {
  const DeltaShape& s = a.shape;
  const int64_t g = h / s.values_per_key(), of_group = h % s.values_per_key(), keys = s.num_key_heads * s.key_dim;
  float* const state = a.state.of(a.tokens.seq[run.begin]) + s.conv_state() + h * s.key_dim * s.value_dim;
  if (a.tokens.position[run.begin] == 0) std::fill_n(state, s.key_dim * s.value_dim, 0.0f);
  float *const step_out = scratch, *const gate = scratch + s.value_dim;
  for (int64_t t = run.begin; t < run.end; ++t) {
    const float* const qkv = a.qkv + t * s.num_channels();
    const float step = Softplus(a.a.at(t, g)[of_group] + a.dt_bias[h]);
    kernels.delta_step({.q = qkv + g * s.key_dim,
                        .k = qkv + keys + g * s.key_dim,
                        .v = qkv + 2 * keys + h * s.value_dim,
                        .key_dim = s.key_dim,
                        .value_dim = s.value_dim,
                        .decay = ExpF32(-ExpF32(a.a_log[h]) * step),
                        .beta = 1.0f / (1.0f + ExpF32(-a.b.at(t, g)[of_group])),
                        .state = state,
                        .out = step_out});
    const Rows row{step_out, 1, s.value_dim};
    float sum_squares;
    kernels.dot(row, row, s.value_dim, &sum_squares, 1);
    const float inverse = 1.0f / std::sqrt(sum_squares / static_cast<float>(s.value_dim) + a.norm_eps);
    const float* const z = a.z.at(t, g) + of_group * s.value_dim;
    kernels.sigmoid(z, s.value_dim, gate);
    float* const out = a.out + t * s.values_size() + h * s.value_dim;
    for (int64_t i = 0; i < s.value_dim; ++i) out[i] = step_out[i] * inverse * a.norm[i] * (z[i] * gate[i]);
  }
}

void GatedDeltaReference(const GatedDeltaArgs& a) {
  std::vector<float> scratch(2 * a.shape.value_dim);
  ClearRowsWithoutToken(a.tokens, a.shape.values_size(), a.out);
  for (const TokenRun& run : RunsOf(a.tokens)) {
    for (int64_t h = 0; h < a.shape.num_value_heads; ++h) RunHead(a, run, h, PortableRowKernels(), scratch.data());
  }
}

void GatedDeltaCpu(const GatedDeltaArgs& a, CpuContext& context) {
  const RowKernels& kernels = RowKernelsFor(context.isa);
  const int64_t heads = a.shape.num_value_heads;
  const std::vector<TokenRun> runs = RunsOf(a.tokens);
  ClearRowsWithoutToken(a.tokens, a.shape.values_size(), a.out);
  context.pool.ParallelFor(static_cast<int64_t>(runs.size()) * heads, [&](int64_t task, int) {
    auto* const scratch = static_cast<float*>(ThreadScratch(2 * a.shape.value_dim * sizeof(float)));
    RunHead(a, runs[task / heads], task % heads, kernels, scratch);
  });
}

void CheckDelta(const DeltaShape& s, const StateView& state) {
  TF_CHECK_GT(s.num_key_heads, 0);
  TF_CHECK_EQ(s.num_value_heads % s.num_key_heads, 0);
  TF_CHECK_GT(s.conv_size, 0);
  TF_CHECK_EQ(state.size, s.state_size());
}

}  // namespace

constexpr Op<DeltaInputsArgs> kDeltaInputs{"delta_inputs", &DeltaInputsReference, &DeltaInputsCpu};
constexpr Op<GatedDeltaArgs> kGatedDelta{"gated_delta", &GatedDeltaReference, &GatedDeltaCpu};

void DeltaInputs(Stream& stream, const DeltaInputsArgs& args) {
  CheckDelta(args.shape, args.state);
  stream.Launch(kDeltaInputs, args);
}

void GatedDelta(Stream& stream, const GatedDeltaArgs& args) {
  CheckDelta(args.shape, args.state);
  stream.Launch(kGatedDelta, args);
}

}  // namespace tokenferry

#include "runtime/attention/gated_delta.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/check.h"
#include "core/device/cuda_launcher.h"
#include "core/kernels/exp.h"
#include "core/kernels/row_parallel.h"
#include "core/kernels/scratch.h"
#include "runtime/attention/delta_inputs.h"
#include "runtime/attention/softplus.h"
#include "runtime/ops/row_kernels.h"

namespace tokenferry {
namespace {

constexpr int64_t kChannelsPerTask = 2048;  // of a convolution, with an exponential each

// Tokens [begin, end) of one sequence.
struct TokenRun {
  int64_t begin = 0, end = 0;
};

std::vector<TokenRun> RunsOf(const TokenPositions& tokens) {
  std::vector<TokenRun> runs;
  for (int64_t t = 0; t < tokens.num_tokens; ++t) {
    if (tokens.position[t] < 0) continue;  // no token
    if (!ContinuesRun(tokens, t)) runs.push_back({t, t});
    runs.back().end = t + 1;
  }
  return runs;
}

void NormaliseHead(const RowKernels& kernels, int64_t size, float factor, float* x) {
  const Rows row{x, 1, size};
  float sum_squares;
  kernels.dot(row, row, size, &sum_squares, 1);
  const float inverse = 1.0f / std::sqrt(sum_squares + kUnitHeadEps);
  for (int64_t i = 0; i < size; ++i) x[i] = x[i] * inverse * factor;
}

// One head of token t; `gate` has its size.
void ConvolveHead(const DeltaInputsArgs& a, int64_t t, int64_t head, const RowKernels& kernels, float* gate) {
  const DeltaShape& s = a.shape;
  const DeltaHead part = HeadOf(a, head);
  const int64_t channels = s.num_channels(), before = NumBefore(a.tokens, t, s.conv_size - 1);
  float* const y = a.out + t * channels + part.first;
  std::fill_n(y, part.size, 0.0f);
  for (int64_t j = 0; j < s.conv_size; ++j) {
    const float* u = InputBefore(a, part, t, before, s.conv_size - 1 - j);
    const float* w = a.weight + j * channels + part.first;
    if (u == nullptr) continue;
    for (int64_t c = 0; c < part.size; ++c) y[c] += w[c] * u[c];
  }
  kernels.sigmoid(y, part.size, gate);
  for (int64_t c = 0; c < part.size; ++c) y[c] *= gate[c];
  if (head < s.num_key_heads) return NormaliseHead(kernels, s.key_dim, InverseRoot(s.key_dim), y);
  if (head < 2 * s.num_key_heads) NormaliseHead(kernels, s.key_dim, 1, y);
}

// A head's rows of the state, after all tokens of the run have been convolved. A row that a later one takes the place
// of has been read by then: rows move to the front, in order.
void KeepLastRows(const DeltaInputsArgs& a, const TokenRun& run, int64_t head) {
  const int64_t num_rows = a.shape.conv_size - 1, last = run.end - 1;
  const DeltaHead part = HeadOf(a, head);
  const int64_t before = NumBefore(a.tokens, last, num_rows);
  float* to = a.state.of(a.tokens.seq[last]) + part.first;
  for (int64_t row = 0; row < num_rows; ++row, to += a.shape.num_channels()) {
    const float* u = InputBefore(a, part, last, before, num_rows - 1 - row);
    if (u == nullptr) {
      std::fill_n(to, part.size, 0.0f);
    } else {
      std::copy_n(u, part.size, to);
    }
  }
}

int64_t WidestHead(const DeltaShape& s) { return std::max(s.key_dim, s.value_dim); }

void DeltaInputsReference(const DeltaInputsArgs& a) {
  std::vector<float> gate(WidestHead(a.shape));
  const int64_t heads = NumHeads(a.shape);
  for (int64_t i = 0; i < a.tokens.num_tokens * heads; ++i) {
    ConvolveHead(a, i / heads, i % heads, PortableRowKernels(), gate.data());
  }
  for (const TokenRun& run : RunsOf(a.tokens)) {
    for (int64_t head = 0; head < heads; ++head) KeepLastRows(a, run, head);
  }
}

// Tasks are of heads, so that a step of few tokens has work for all threads too.
void DeltaInputsCpu(const DeltaInputsArgs& a, CpuContext& context) {
  const RowKernels& kernels = RowKernelsFor(context.isa);
  const int64_t heads = NumHeads(a.shape), widest = WidestHead(a.shape);
  ParallelRows<kChannelsPerTask>(context, a.tokens.num_tokens * heads, widest, [&](int64_t begin, int64_t end) {
    auto* const gate = static_cast<float*>(ThreadScratch(widest * sizeof(float)));
    for (int64_t i = begin; i < end; ++i) ConvolveHead(a, i / heads, i % heads, kernels, gate);
  });
  const std::vector<TokenRun> runs = RunsOf(a.tokens);
  const auto num_runs = static_cast<int64_t>(runs.size());
  ParallelRows(context, num_runs * heads, (a.shape.conv_size - 1) * widest, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) KeepLastRows(a, runs[i / heads], i % heads);
  });
}

void ClearRowsWithoutToken(const TokenPositions& tokens, int64_t cols, float* out) {
  for (int64_t t = 0; t < tokens.num_tokens; ++t) {
    if (tokens.position[t] < 0) std::fill_n(out + t * cols, cols, 0.0f);
  }
}

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
                        .beta = Sigmoid(a.b.at(t, g)[of_group]),
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

absl::Status CudaDeltaInputs(const DeltaInputsArgs& args, void* stream);  // gated_delta.cu
absl::Status CudaGatedDelta(const GatedDeltaArgs& args, void* stream);

constexpr Op<DeltaInputsArgs> kDeltaInputs{"delta_inputs", &DeltaInputsReference, &DeltaInputsCpu,
                                           TF_CUDA_LAUNCHER(CudaDeltaInputs)};
constexpr Op<GatedDeltaArgs> kGatedDelta{"gated_delta", &GatedDeltaReference, &GatedDeltaCpu,
                                         TF_CUDA_LAUNCHER(CudaGatedDelta)};

void DeltaInputs(Stream& stream, const DeltaInputsArgs& args) {
  CheckDelta(args.shape, args.state);
  stream.Launch(kDeltaInputs, args);
}

void GatedDelta(Stream& stream, const GatedDeltaArgs& args) {
  CheckDelta(args.shape, args.state);
  stream.Launch(kGatedDelta, args);
}

}  // namespace tokenferry

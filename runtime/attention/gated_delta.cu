#include "core/device/cuda_launch.cuh"
#include "core/kernels/copy_async.cuh"
#include "core/kernels/lanes.cuh"
#include "runtime/attention/delta_inputs.h"
#include "runtime/attention/softplus.h"

namespace tokenferry {
namespace {

// The sum of squares of value(i), i < size, in lane order, by the block's first warp; its thread 0 has it.
template <class Value>
__device__ float SumSquaresByFirstWarp(int64_t size, const Value& value) {
  return SumHalfWarp(LaneChain(threadIdx.x % kHalfWarp, size, value, value));
}

// A block per (token, head).
__global__ void DeltaInputsKernel(DeltaInputsArgs a, float query_scale) {
  extern __shared__ float unscaled[];  // [key_dim]
  __shared__ float shared_inverse;
  const DeltaShape& s = a.shape;
  const int64_t t = blockIdx.x / NumHeads(s), h = blockIdx.x % NumHeads(s), channels = s.num_channels();
  const bool is_value = h >= 2 * s.num_key_heads;
  const DeltaHead head = HeadOf(a, h);
  const int64_t before = NumBefore(a.tokens, t, s.conv_size - 1);
  float* out = a.out + t * channels + head.first;
  for (int64_t c = threadIdx.x; c < head.size; c += blockDim.x) {
    float y = 0.0f;
    for (int64_t j = 0; j < s.conv_size; ++j) {
      const float* u = InputBefore(a, head, t, before, s.conv_size - 1 - j);
      if (u != nullptr) y = __fadd_rn(y, __fmul_rn(a.weight[j * channels + head.first + c], u[c]));
    }
    y = __fmul_rn(y, Sigmoid(y));
    (is_value ? out : unscaled)[c] = y;
  }
  if (is_value) return;
  __syncthreads();
  if (threadIdx.x < kWarpSize) {
    const float sum = SumSquaresByFirstWarp(head.size, [&](int64_t i) { return unscaled[i]; });
    if (threadIdx.x == 0) shared_inverse = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(sum, kUnitHeadEps)));
  }
  __syncthreads();
  const float inverse = shared_inverse, factor = h < s.num_key_heads ? query_scale : 1.0f;
  for (int64_t c = threadIdx.x; c < head.size; c += blockDim.x) {
    out[c] = __fmul_rn(__fmul_rn(unscaled[c], inverse), factor);
  }
}

// A block per (token, head), of which those of a run's last token leave its inputs in the state: behind the kernel that
// reads what was there.
__global__ void KeepInputsKernel(DeltaInputsArgs a) {
  const DeltaShape& s = a.shape;
  const int64_t t = blockIdx.x / NumHeads(s), num_rows = s.conv_size - 1;
  if (a.tokens.position[t] < 0 || (t + 1 < a.tokens.num_tokens && ContinuesRun(a.tokens, t + 1))) return;
  const DeltaHead head = HeadOf(a, blockIdx.x % NumHeads(s));
  const int64_t before = NumBefore(a.tokens, t, num_rows);
  float* state = a.state.of(a.tokens.seq[t]) + head.first;
  // Rows move to the front, in order: each is read before another takes its place.
  for (int64_t c = threadIdx.x; c < head.size; c += blockDim.x) {
    for (int64_t row = 0; row < num_rows; ++row) {
      const float* u = InputBefore(a, head, t, before, num_rows - 1 - row);
      state[row * s.num_channels() + c] = u == nullptr ? 0.0f : u[c];
    }
  }
}

// What the delta rule takes of up to 32 tokens of a run besides vectors, a token per lane.
struct RunGates {
  float decay = 0.0f, beta = 0.0f;
  int num_tokens = 0;  // of them, on every lane
};

// Of the tokens from `first` on, which is the run's begin, or behind a token of it.
__device__ RunGates GatesOf(const GatedDeltaArgs& a, int64_t run_begin, int64_t first, int64_t h) {
  const int64_t t = first + threadIdx.x, r = a.shape.values_per_key();
  const bool goes_on = t < a.tokens.num_tokens && (t == run_begin || ContinuesRun(a.tokens, t));
  const unsigned stops = ~__ballot_sync(kWholeWarp, goes_on);
  RunGates gates;
  gates.num_tokens = stops == 0 ? kWarpSize : __ffs(static_cast<int>(stops)) - 1;
  if (static_cast<int>(threadIdx.x) < gates.num_tokens) {
    const float step = Softplus(__fadd_rn(a.a.at(t, h / r)[h % r], a.dt_bias[h]));
    gates.decay = ExpF32(__fmul_rn(-ExpF32(a.a_log[h]), step));
    gates.beta = Sigmoid(a.b.at(t, h / r)[h % r]);
  }
  return gates;
}

// Rows [0, kRows) of a column of the state, `column` in shared memory, on with one token; all are read before one is
// written, so that they need not wait for each other. Returns `out` with their part of the sum.
template <int kRows>
__device__ float UpdateRows(const float* query, const float* key, float decay, float delta, float* column, float out) {
  float q[kRows], k[kRows], x[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) q[i] = query[i], k[i] = key[i], x[i] = column[i * kWarpSize];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    x[i] = __fmaf_rn(k[i], delta, __fmul_rn(decay, x[i]));
    column[i * kWarpSize] = x[i];
    out = __fmaf_rn(q[i], x[i], out);
  }
  return out;
}

// Copies query and key of row t of DeltaInputs, while other work goes on.
__device__ void CopyQueryAndKey(const GatedDeltaArgs& a, int64_t t, int64_t key_head, float* to) {
  const DeltaShape& s = a.shape;
  const float* query = a.qkv + t * s.num_channels() + key_head * s.key_dim;
  const float* key = query + s.num_key_heads * s.key_dim;
  for (int64_t i = threadIdx.x; i < s.key_dim; i += kWarpSize) {
    CopyAsync4(SharedAddress(to + i), query + i);
    CopyAsync4(SharedAddress(to + s.key_dim + i), key + i);
  }
  CommitCopies();
}

constexpr int kStateRows = 8;  // of the state, in registers at once

// A warp per (token, value head, tile of 32 columns of its state): that of a run's first token does the run, token by
// token, with the tile in shared memory; the others do nothing. A lane has a column. out: before norm and gate.
__global__ void __launch_bounds__(kWarpSize) DeltaRuleKernel(GatedDeltaArgs a, int64_t num_tiles) {
  extern __shared__ float shared[];  // the tile [key_dim][32], then of this token and the next query and key
  const DeltaShape& s = a.shape;
  const int64_t begin = blockIdx.x / (s.num_value_heads * num_tiles), size = s.key_dim;
  if (a.tokens.position[begin] < 0 || ContinuesRun(a.tokens, begin)) return;
  const int64_t h = blockIdx.x / num_tiles % s.num_value_heads, key_head = h / s.values_per_key();
  const int64_t own = blockIdx.x % num_tiles * kWarpSize + threadIdx.x;
  const bool is_column = own < s.value_dim;
  const int64_t j = is_column ? own : s.value_dim - 1;  // beyond the last: the last again
  float* const state = a.state.of(a.tokens.seq[begin]) + s.conv_state() + h * size * s.value_dim + j;
  float *const column = shared + threadIdx.x, *const vectors = shared + size * kWarpSize;
  const float* const value = a.qkv + 2 * s.num_key_heads * size + h * s.value_dim + j;

  CopyQueryAndKey(a, begin, key_head, vectors);
  if (a.tokens.position[begin] == 0) {
    for (int64_t i = 0; i < size; ++i) column[i * kWarpSize] = 0.0f;
  } else {
#pragma unroll kStateRows
    for (int64_t i = 0; i < size; ++i) column[i * kWarpSize] = state[i * s.value_dim];
  }
  RunGates gates;
  for (int64_t t = begin;; ++t) {
    const int at = static_cast<int>((t - begin) % kWarpSize);
    if (at == 0) gates = GatesOf(a, begin, t, h);
    if (at == gates.num_tokens) break;
    const float decay = __shfl_sync(kWholeWarp, gates.decay, at), beta = __shfl_sync(kWholeWarp, gates.beta, at);
    const float* const query = vectors + (t - begin) % 2 * 2 * size;
    const float* const key = query + size;
    WaitForCopies<0>();
    __syncwarp();  // the copies of all lanes are there, and nobody reads the last token's any more
    if (t + 1 < a.tokens.num_tokens) CopyQueryAndKey(a, t + 1, key_head, vectors + (t + 1 - begin) % 2 * 2 * size);
    const float v = value[t * s.num_channels()];
    float delta = 0.0f;
#pragma unroll kStateRows
    for (int64_t i = 0; i < size; ++i) delta = __fmaf_rn(key[i], __fmul_rn(decay, column[i * kWarpSize]), delta);
    delta = __fmul_rn(beta, __fsub_rn(v, delta));
    float out = 0.0f;
    int64_t i = 0;
    for (; i + kStateRows <= size; i += kStateRows) {
      out = UpdateRows<kStateRows>(query + i, key + i, decay, delta, column + i * kWarpSize, out);
    }
    for (; i < size; ++i) out = UpdateRows<1>(query + i, key + i, decay, delta, column + i * kWarpSize, out);
    if (is_column) a.out[t * s.values_size() + h * s.value_dim + j] = out;
  }
  WaitForCopies<0>();  // a thread may not end before
  if (!is_column) return;
#pragma unroll kStateRows
  for (int64_t i = 0; i < size; ++i) state[i * s.value_dim] = column[i * kWarpSize];
}

// A block per (token, value head): the norm of what the rule has left in `out`, and the gate.
__global__ void GateHeadsKernel(GatedDeltaArgs a) {
  __shared__ float shared_inverse;
  const DeltaShape& s = a.shape;
  const int64_t t = blockIdx.x / s.num_value_heads, h = blockIdx.x % s.num_value_heads, r = s.values_per_key();
  float* out = a.out + blockIdx.x * s.value_dim;
  const bool is_token = a.tokens.position[t] >= 0;
  if (is_token && threadIdx.x < kWarpSize) {
    const float sum = SumSquaresByFirstWarp(s.value_dim, [&](int64_t i) { return out[i]; });
    const float mean = __fdiv_rn(sum, static_cast<float>(s.value_dim));
    if (threadIdx.x == 0) shared_inverse = __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(mean, a.norm_eps)));
  }
  __syncthreads();
  const float* z = a.z.at(t, h / r) + h % r * s.value_dim;
  for (int64_t i = threadIdx.x; i < s.value_dim; i += blockDim.x) {
    if (!is_token) {
      out[i] = 0.0f;
      continue;
    }
    const float normed = __fmul_rn(__fmul_rn(out[i], shared_inverse), a.norm[i]);
    out[i] = __fmul_rn(normed, __fmul_rn(z[i], Sigmoid(z[i])));
  }
}

}  // namespace

absl::Status CudaDeltaInputs(const DeltaInputsArgs& a, void* stream) {
  const DeltaShape& s = a.shape;
  const int64_t widest = s.key_dim > s.value_dim ? s.key_dim : s.value_dim;
  const LaunchShape shape = {a.tokens.num_tokens * NumHeads(s), ThreadsFor(widest), s.key_dim * sizeof(float)};
  TF_RETURN_IF_ERROR(LaunchKernel(DeltaInputsKernel, shape, stream, a, InverseRoot(s.key_dim)));
  return LaunchKernel(KeepInputsKernel, {shape.num_blocks, shape.threads}, stream, a);
}

absl::Status CudaGatedDelta(const GatedDeltaArgs& a, void* stream) {
  const DeltaShape& s = a.shape;
  const int64_t num_heads = a.tokens.num_tokens * s.num_value_heads, num_tiles = CeilDiv(s.value_dim, kWarpSize);
  const size_t shared_bytes = s.key_dim * (kWarpSize + 4) * sizeof(float);
  TF_RETURN_IF_ERROR(
      LaunchKernel(DeltaRuleKernel, {num_heads * num_tiles, kWarpSize, shared_bytes}, stream, a, num_tiles));
  return LaunchKernel(GateHeadsKernel, {num_heads, ThreadsFor(s.value_dim)}, stream, a);
}

}  // namespace tokenferry

#include "core/device/cuda_launch.cuh"
#include "core/kernels/exp.h"
#include "core/kernels/matmul_tile.cuh"
#include "core/kernels/store.cuh"
#include "runtime/attention/attention_kernels.h"
#include "runtime/attention/attention_mma.h"
#include "runtime/attention/attention_ops.h"

namespace tokenferry {
namespace {

// A block per token, a thread per pair.
__global__ void RopeKernel(RopeArgs a) {
  const int64_t t = blockIdx.x;
  const int32_t num_pairs = a.dim / 2;
  if (a.tokens.position[t] < 0) return;
  const float* cosines = a.cos_sin + a.tokens.RotationRow(t) * a.dim;
  const float* sines = cosines + num_pairs;
  for (int32_t at = threadIdx.x; at < a.heads * num_pairs; at += blockDim.x) {
    const int32_t h = at / num_pairs, i = at % num_pairs;
    float* head = a.x + t * a.stride + h * a.head_stride;
    const int32_t first = RopeFirst(a.layout, i), second = RopeSecond(a.layout, i, a.dim);
    const float x = head[first], y = head[second];
    head[first] = __fsub_rn(__fmul_rn(x, cosines[i]), __fmul_rn(y, sines[i]));
    head[second] = __fadd_rn(__fmul_rn(x, sines[i]), __fmul_rn(y, cosines[i]));
  }
}

// A block per token.
template <class T>
__global__ void CacheWriteKernel(CacheWriteArgs a) {
  const int64_t t = blockIdx.x, latent = a.cache.first;
  if (a.tokens.position[t] < 0) return;
  T* row = static_cast<T*>(a.cache.data) + CacheRow(a.cache, a.tokens.seq[t], a.tokens.position[t]);
  for (int64_t i = threadIdx.x; i < latent + a.cache.second; i += blockDim.x) {
    StoreFloat(i < latent ? a.first[t * a.first_stride + i] : a.second[t * a.second_stride + i - latent], row[i]);
  }
}

// A block per token.
__global__ void TemperatureKernel(TemperatureArgs a) {
  const float factor = a.factors[TemperaturePlace(a, blockIdx.x)];
  float* x = a.x.row(blockIdx.x);
  for (int64_t i = threadIdx.x; i < a.x.cols; i += blockDim.x) x[i] = __fmul_rn(x[i], factor);
}

constexpr int kAbsorbTokens = 4, kAbsorbThreads = 128;

// Along x a block per (head, columns, tile of tokens), a thread per column; weights are read once per tile.
template <class Format>
__global__ void AbsorbQueryKernel(AbsorbQueryArgs a, int64_t num_column_tiles, int64_t num_token_tiles) {
  extern __shared__ float queries[];  // [kAbsorbTokens][nope]
  const int64_t first = blockIdx.x % num_token_tiles * kAbsorbTokens, rest = blockIdx.x / num_token_tiles;
  const int64_t h = rest / num_column_tiles, c = rest % num_column_tiles * blockDim.x + threadIdx.x;
  const int num_tokens = static_cast<int>(min(a.num_tokens - first, int64_t{kAbsorbTokens}));
  const int64_t latent = a.kv_b.cols;
  for (int at = threadIdx.x; at < kAbsorbTokens * a.nope; at += blockDim.x) {
    const int64_t t = first + min(at / a.nope, num_tokens - 1);
    queries[at] = a.q[(t * a.heads + h) * (a.nope + a.rope) + at % a.nope];
  }
  __syncthreads();
  if (c >= latent) return;
  float sums[kAbsorbTokens] = {};
  for (int32_t i = 0; i < a.nope; ++i) {
    const float weight = Format::Value(a.kv_b, h * (a.nope + a.value) + i, c);
#pragma unroll
    for (int t = 0; t < kAbsorbTokens; ++t) sums[t] = __fmaf_rn(queries[t * a.nope + i], weight, sums[t]);
  }
#pragma unroll
  for (int t = 0; t < kAbsorbTokens; ++t) {
    if (t < num_tokens) a.out[((first + t) * a.heads + h) * latent + c] = sums[t];
  }
}

// A block per (head, panel of values, tile of tokens): the rows of a product per head.
template <class Format>
__global__ void ExpandValueKernel(ExpandValueArgs a, int64_t row_bytes, int64_t num_panels, int64_t num_token_tiles) {
  const int64_t row = blockIdx.x % num_token_tiles * kTileRows, rest = blockIdx.x / num_token_tiles;
  const int64_t h = rest / num_panels, latent = a.kv_b.cols;
  WeightView w = a.kv_b;  // head h's rows; formats read (row_offset + o), so the data has to move along
  w.row_offset += h * (a.nope + a.value) + a.nope;
  w.data = static_cast<const uint8_t*>(w.data) + (h * (a.nope + a.value) + a.nope) * row_bytes;
  w.rows = a.value;
  MultiplyBlock<Format>(ProductRows<float>{a.u + h * latent, a.heads * latent, nullptr}, w, row,
                        min(a.num_tokens - row, int64_t{kTileRows}), rest % num_panels * kBlockOuts,
                        ProductOut{a.out + h * a.value, int64_t{a.heads} * a.value});
}

constexpr int kLatentThreads = 256, kGroupedThreads = 128;  // at least kCacheBlockTokens

// Where the key and the value of a head lie in a cache row.
struct HeadPlace {
  int64_t key = 0, key_size = 0, value = 0, value_size = 0;
};

// What a block keeps in shared memory: the query, the sums over keys, a block's scores and weights.
struct AttentionScratch {
  float *query, *context, *scores, *weights;

  __device__ AttentionScratch(float* memory, const HeadPlace& place)
      : query(memory),
        context(query + place.key_size),
        scores(context + place.value_size),
        weights(scores + kCacheBlockTokens) {}
  static size_t Bytes(int64_t key_size, int64_t value_size) {
    return (key_size + value_size + 2 * kCacheBlockTokens) * sizeof(float);
  }
};

// All keys at positions [next, last] of a sequence, a cache block of them at a time.
template <class T>
struct KeyBlocks {
  const CacheView& cache;
  int32_t seq;
  int64_t next, last;
  int64_t row_size;
  const T* rows = nullptr;  // of the block
  int64_t begin = 0;        // the first key's position

  // Goes on to the next block; how many keys it has, 0: there is none.
  __device__ int Advance() {
    if (next > last) return 0;
    begin = next;
    next = min(last + 1, (begin / kCacheBlockTokens + 1) * kCacheBlockTokens);
    rows = static_cast<const T*>(cache.data) + CacheRow(cache, seq, begin);
    return static_cast<int>(next - begin);
  }
  __device__ const T* Row(int j) const { return rows + j * row_size; }
  __device__ int64_t Position(int j) const { return begin + j; }
};

// The first num_left keys of a list of positions, as many at a time.
template <class T>
struct SelectedKeyBlocks {
  const CacheView& cache;
  int32_t seq;
  const int32_t* next;
  int64_t num_left;
  // Where the keys lie. Two of them in turns, since a warp may be a block ahead of those that still read.
  int64_t (&row_at)[2][kCacheBlockTokens];
  int turn = 0;

  // As above, with a barrier.
  __device__ int Advance() {
    const int size = static_cast<int>(min(num_left, kCacheBlockTokens));
    if (size <= 0) return 0;
    turn ^= 1;
    if (threadIdx.x < size) row_at[turn][threadIdx.x] = CacheRow(cache, seq, next[threadIdx.x]);
    __syncthreads();
    next += size;
    num_left -= size;
    return size;
  }
  __device__ const T* Row(int j) const { return static_cast<const T*>(cache.data) + row_at[turn][j]; }
};

// What the product of a query and key j of a block is worth.
struct Scaled {
  float scale;

  template <class Keys>
  __device__ float Score(float dot, const Keys&, int) const {
    return __fmul_rn(dot, scale);
  }
};

// The same, where there may be a bias by how far the key is from the query, which is at `position`.
struct BiasedAndScaled {
  float scale;
  const RelativeBias& bias;
  int64_t head, position;

  template <class Keys>
  __device__ float Score(float dot, const Keys& keys, int j) const {
    if (bias.values != nullptr) dot = __fadd_rn(dot, bias.At(head, keys.Position(j) - position));
    return __fmul_rn(dot, scale);
  }
};

// scores[j] of the keys, j < size; half a warp per key.
template <class Keys, class Rule>
__device__ void ScoreKeys(const Keys& keys, int size, const HeadPlace& place, const Rule& rule,
                          const AttentionScratch& s) {
  const int half = threadIdx.x / kHalfWarp, num_halves = blockDim.x / kHalfWarp, lane = threadIdx.x % kHalfWarp;
  for (int first = half / 2 * 2; first < size; first += num_halves) {  // the same in both halves of a warp
    const int j = first + half % 2;
    const auto* key = keys.Row(min(j, size - 1)) + place.key;
    const float dot = SumHalfWarp(LaneChain(
        lane, place.key_size, [&](int64_t i) { return s.query[i]; }, [&](int64_t i) { return ToFloat(key[i]); }));
    if (lane == 0 && j < size) s.scores[j] = rule.Score(dot, keys, j);
  }
}

// The largest of `max` and the scores, on every thread; each warp finds it for itself.
__device__ float LargestScore(const float* scores, int size, float max) {
  for (int j = threadIdx.x % kWarpSize; j < size; j += kWarpSize) max = scores[j] > max ? scores[j] : max;
  for (int width = kWarpSize / 2; width > 0; width /= 2) {
    const float other = __shfl_xor_sync(kWholeWarp, max, width);
    max = other > max ? other : max;
  }
  return max;
}

// The weights added up in lane order, on every thread.
__device__ float SumWeights(const float* weights, int size) {
  float lane_sum = 0.0f;
  for (int j = threadIdx.x % kHalfWarp; j < size; j += kHalfWarp) lane_sum = __fadd_rn(lane_sum, weights[j]);
  return __shfl_sync(kWholeWarp, SumHalfWarp(lane_sum), 0);
}

// An online softmax, of which there is the maximum and the sum so far.
struct Online {
  float max, sum;
};

// The block's query over `keys`, into out [value_size]; s.query is there, and all threads have passed a barrier since
// or will when `keys` advances.
template <class Keys, class Rule>
__device__ void Attend(Keys keys, const HeadPlace& place, const Rule& rule, Online online, const AttentionScratch& s,
                       float* out) {
  for (int64_t i = threadIdx.x; i < place.value_size; i += blockDim.x) s.context[i] = 0.0f;
  while (const int size = keys.Advance()) {
    ScoreKeys(keys, size, place, rule, s);
    __syncthreads();  // scores are there, and nobody reads the last block's weights any more
    const float new_max = LargestScore(s.scores, size, online.max);
    const float rescale = ExpF32(__fsub_rn(online.max, new_max));
    if (threadIdx.x < size) s.weights[threadIdx.x] = ExpF32(__fsub_rn(s.scores[threadIdx.x], new_max));
    __syncthreads();
    online = {new_max, __fmaf_rn(online.sum, rescale, SumWeights(s.weights, size))};
    for (int64_t i = threadIdx.x; i < place.value_size; i += blockDim.x) {
      float context = __fmul_rn(s.context[i], rescale);
#pragma unroll 4
      for (int j = 0; j < size; ++j) {
        context = __fmaf_rn(s.weights[j], ToFloat(keys.Row(j)[place.value + i]), context);
      }
      s.context[i] = context;
    }
  }
  for (int64_t i = threadIdx.x; i < place.value_size; i += blockDim.x) {
    out[i] = online.sum == 0.0f ? 0.0f : __fdiv_rn(s.context[i], online.sum);  // there is no token, or no key
  }
}

// A query as it enters the product.
template <Compute kCompute>
__device__ float QueryValue(float x) {
  return kCompute == Compute::kBF16 ? RoundToBF16(x) : x;
}

// A block per (token, head).
template <class T, Compute kCompute, bool kIsSparse>
__global__ void LatentAttentionKernel(LatentAttentionArgs a) {
  extern __shared__ float shared[];
  const int64_t row = blockIdx.x, t = row / a.heads, latent = a.cache.first, width = latent + a.rope;
  const HeadPlace place{.key_size = width, .value_size = latent};
  const AttentionScratch s(shared, place);
  const float* q_rope = a.q + row * (a.nope + a.rope) + a.nope;
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    s.query[i] = QueryValue<kCompute>(i < latent ? a.q_latent[row * latent + i] : q_rope[i - latent]);
  }
  if constexpr (!kIsSparse) __syncthreads();  // SelectedKeyBlocks has one before any key is scored
  const int32_t seq = a.tokens.seq[t];
  const int64_t position = a.tokens.position[t];
  float* out = a.out + row * latent;
  if constexpr (kIsSparse) {
    __shared__ int64_t row_at[2][kCacheBlockTokens];
    Attend(
        SelectedKeyBlocks<T>{a.cache, seq, a.selected + t * a.num_selected, min(position + 1, a.num_selected), row_at},
        place, Scaled{a.scale}, {-INFINITY, 0.0f}, s, out);
  } else {
    Attend(KeyBlocks<T>{a.cache, seq, 0, position, width}, place, Scaled{a.scale}, {-INFINITY, 0.0f}, s, out);
  }
}

// A block per (token, head). Heads that share keys read them side by side: from L2, all but the first.
template <class T, Compute kCompute>
__global__ void GroupedAttentionKernel(GroupedAttentionArgs a) {
  extern __shared__ float shared[];
  const int64_t row = blockIdx.x, t = row / a.heads, h = row % a.heads, kv_head = h / (a.heads / a.kv_heads);
  const int64_t size = a.head_dim, position = a.tokens.position[t];
  const HeadPlace place{
      .key = kv_head * size, .key_size = size, .value = a.cache.first + kv_head * size, .value_size = size};
  const AttentionScratch s(shared, place);
  for (int64_t i = threadIdx.x; i < size; i += blockDim.x) s.query[i] = QueryValue<kCompute>(a.q[row * size + i]);
  __syncthreads();
  const Online online = a.sinks == nullptr ? Online{-INFINITY, 0.0f} : Online{a.sinks[h], 1.0f};
  Attend(KeyBlocks<T>{a.cache, a.tokens.seq[t], a.keys.First(position), a.Last(t), a.cache.first + a.cache.second},
         place, BiasedAndScaled{a.scale, a.bias, h, position}, online, s, a.out + row * size);
}

template <class T, bool kIsSparse>
absl::Status LaunchLatent(const LatentAttentionArgs& a, void* stream) {
  const LaunchShape shape = {a.tokens.num_tokens * a.heads, kLatentThreads,
                             AttentionScratch::Bytes(a.cache.first + a.rope, a.cache.first)};
  return a.compute == Compute::kBF16
             ? LaunchKernel(LatentAttentionKernel<T, Compute::kBF16, kIsSparse>, shape, stream, a)
             : LaunchKernel(LatentAttentionKernel<T, Compute::kF32, kIsSparse>, shape, stream, a);
}

template <class T>
absl::Status LaunchGrouped(const GroupedAttentionArgs& a, void* stream) {
  const LaunchShape shape = {a.tokens.num_tokens * a.heads, kGroupedThreads,
                             AttentionScratch::Bytes(a.head_dim, a.head_dim)};
  return a.compute == Compute::kBF16 ? LaunchKernel(GroupedAttentionKernel<T, Compute::kBF16>, shape, stream, a)
                                     : LaunchKernel(GroupedAttentionKernel<T, Compute::kF32>, shape, stream, a);
}

}  // namespace

absl::Status CudaRotate(const RopeArgs& a, void* stream) {
  return LaunchKernel(RopeKernel, {a.tokens.num_tokens, ThreadsFor(int64_t{a.heads} * a.dim / 2)}, stream, a);
}

absl::Status CudaTemperature(const TemperatureArgs& a, void* stream) {
  return LaunchKernel(TemperatureKernel, {a.x.rows, ThreadsFor(a.x.cols)}, stream, a);
}

absl::Status CudaCacheWrite(const CacheWriteArgs& a, void* stream) {
  const LaunchShape shape = {a.tokens.num_tokens, ThreadsFor(a.cache.first + a.cache.second)};
  if (a.cache.dtype == DType::kBF16) return LaunchKernel(CacheWriteKernel<BF16>, shape, stream, a);
  return LaunchKernel(CacheWriteKernel<float>, shape, stream, a);
}

absl::Status CudaAbsorbQuery(const AbsorbQueryArgs& a, void* stream) {
  if (a.compute == Compute::kBF16) return CudaMmaAbsorbQuery(a, stream);
  const int64_t num_column_tiles = CeilDiv(a.kv_b.cols, kAbsorbThreads),
                num_token_tiles = CeilDiv(a.num_tokens, kAbsorbTokens);
  const LaunchShape shape = {a.heads * num_column_tiles * num_token_tiles, kAbsorbThreads,
                             kAbsorbTokens * a.nope * sizeof(float)};
  return LaunchForFormat(a.kv_b.format, [&](auto format) {
    using Format = decltype(format);
    return LaunchKernel(AbsorbQueryKernel<Format>, shape, stream, a, num_column_tiles, num_token_tiles);
  });
}

absl::Status CudaLatentAttention(const LatentAttentionArgs& a, void* stream) {
  TF_ASSIGN_OR_RETURN(const bool takes_tensor_cores, TakesTensorCores(a));
  if (takes_tensor_cores) return CudaMmaLatentAttention(a, stream);
  const bool is_bf16 = a.cache.dtype == DType::kBF16;
  if (a.selected != nullptr) {
    return is_bf16 ? LaunchLatent<BF16, true>(a, stream) : LaunchLatent<float, true>(a, stream);
  }
  return is_bf16 ? LaunchLatent<BF16, false>(a, stream) : LaunchLatent<float, false>(a, stream);
}

absl::Status CudaGroupedAttention(const GroupedAttentionArgs& a, void* stream) {
  if (TakesTensorCores(a)) return CudaMmaGroupedAttention(a, stream);
  return a.cache.dtype == DType::kBF16 ? LaunchGrouped<BF16>(a, stream) : LaunchGrouped<float>(a, stream);
}

absl::Status CudaExpandValue(const ExpandValueArgs& a, void* stream) {
  if (a.compute == Compute::kBF16) return CudaMmaExpandValue(a, stream);
  const int64_t num_panels = CeilDiv(a.value, kBlockOuts), num_token_tiles = CeilDiv(a.num_tokens, kTileRows);
  const LaunchShape shape = {a.heads * num_panels * num_token_tiles, kTileThreads};
  return LaunchForFormat(a.kv_b.format, [&](auto format) {
    using Format = decltype(format);
    return LaunchKernel(ExpandValueKernel<Format>, shape, stream, a, a.kv_b.row_bytes(), num_panels, num_token_tiles);
  });
}

}  // namespace tokenferry

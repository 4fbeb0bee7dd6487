// The device code of latent_attention_mma.cu: a block's shared memory, and what its warps do with a block of keys.
//
// Heads are the M side of both products, for they share the keys: scores [64 heads, 64 keys] are queries times keys
// over the whole row, contexts [64 heads, latent] are weights times the same keys' first `latent` values, which
// therefore are read once from memory for 64 heads. Eight warps: four over the heads, 16 each; two over the keys of the
// scores, and over the columns of the contexts, which stay in registers.
#pragma once

#include "core/kernels/exp.h"
#include "core/kernels/matmul_values.h"
#include "core/kernels/mma.cuh"
#include "runtime/attention/attention_kernels.h"

namespace tokenferry::latent_mma {

constexpr int kHeads = 64, kKeys = kCacheBlockTokens, kThreads = 256, kWarpsM = 4;
constexpr int kMaxLatent = 512, kMaxPairs = kMaxLatent / 32;  // of eight columns, that a warp computes
constexpr int kWeightRowBytes = kKeys * 2;

// Rows of queries and keys in shared memory: `width` values, as far as the next multiple of 16 filled up with zeros.
struct Rows {
  int num_chunks;  // of 16 bytes: those that are a row's own
  int num_steps;   // of 16 values
  int row_bytes;   // a multiple of 128

  __host__ __device__ explicit Rows(int width)
      : num_chunks(width / 8), num_steps((width + 15) / 16), row_bytes((width + 63) / 64 * 128) {}
  __host__ __device__ int bytes() const { return kKeys * row_bytes; }
};

// Where 16 bytes of a row lie: eight rows' chunk of one number are in different banks.
__device__ inline int Place(int row_bytes, int row, int chunk) { return row * row_bytes + ((chunk ^ (row & 7)) << 4); }

struct Shared {
  char *queries, *keys, *weights;  // [64] rows; as many of keys per stage; [64, 64] bf16
  float* per_half;                 // [2, 64] of the two warps that share heads

  __device__ Shared(char* memory, const Rows& rows, int num_stages)
      : queries(memory),
        keys(queries + rows.bytes()),
        weights(keys + num_stages * rows.bytes()),
        per_half(reinterpret_cast<float*>(weights + kHeads * kWeightRowBytes)) {}
  static __host__ size_t Bytes(const Rows& rows, int num_stages) {
    return static_cast<size_t>((1 + num_stages) * rows.bytes() + kHeads * kWeightRowBytes) + 2 * kHeads * sizeof(float);
  }
};

// Which keys token t sees, by number from 0.
template <bool kIsSparse>
struct KeysOf {
  const LatentAttentionArgs& a;
  const int32_t seq;
  const int32_t* list;  // of positions
  const int64_t count;

  __device__ KeysOf(const LatentAttentionArgs& args, int64_t t)
      : a(args),
        seq(args.tokens.seq[t]),
        list(kIsSparse ? args.selected + t * args.num_selected : nullptr),
        count(kIsSparse ? min(int64_t{args.tokens.position[t]} + 1, args.num_selected)
                        : int64_t{args.tokens.position[t]} + 1) {}

  // Begins to copy keys begin .. begin + 63; rows beyond the last become zeros, since a weight of 0 makes no number of
  // a NaN that memory may hold.
  __device__ void Load(int64_t begin, const Rows& rows, char* stage) const {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const auto* data = static_cast<const char*>(a.cache.data);
    const uint32_t to = SharedAddress(stage);
    for (int j = warp; j < kKeys; j += kThreads / 32) {
      const bool is_there = begin + j < count;
      int64_t row = 0;
      if (is_there) row = CacheRow(a.cache, seq, kIsSparse ? list[begin + j] : begin + j);
      for (int c = lane; c < 2 * rows.num_steps; c += 32) {
        const bool is_own = is_there && c < rows.num_chunks;
        CopyAsync16(to + Place(rows.row_bytes, j, c), is_own ? data + 2 * row + 16 * c : data, is_own ? 16 : 0);
      }
    }
  }
};

// Rounded to bf16; heads and columns that there are not are zeros.
__device__ inline void LoadQueries(const LatentAttentionArgs& a, int64_t t, int first_head, const Rows& rows,
                                   char* to) {
  const int latent = static_cast<int>(a.cache.first), width = latent + a.rope, num_pairs = 8 * rows.num_steps;
  for (int at = threadIdx.x; at < kHeads * num_pairs; at += kThreads) {
    const int h = at / num_pairs, i = at % num_pairs * 2;
    const int64_t row = t * a.heads + first_head + h;
    const auto value = [&](int k) {
      if (first_head + h >= a.heads || k >= width) return 0.0f;
      return k < latent ? a.q_latent[row * latent + k] : a.q[row * (a.nope + a.rope) + a.nope + k - latent];
    };
    *reinterpret_cast<uint32_t*>(to + Place(rows.row_bytes, h, i / 8) + i % 8 * 2) = PackBF16(value(i), value(i + 1));
  }
}

// What a thread knows of its two heads, group and group + 8 of its warp's.
struct Softmax {
  float max[2] = {-INFINITY, -INFINITY};
  float sum[2] = {};      // of the keys whose scores the thread has; of all it is in the end
  float rescale[2] = {};  // what sums before this block of keys are worth now
};

// The warp's scores of a block of keys: of 16 heads and 32 keys, eight by eight.
__device__ inline void Score(const Shared& s, const Rows& rows, const char* stage, float (&scores)[4][4]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warp_m = warp % kWarpsM, half = warp / kWarpsM;
  const uint32_t queries = SharedAddress(s.queries), keys = SharedAddress(stage);
  const int head = 16 * warp_m + lane % 16, key = 32 * half + lane / 16 * 8 + lane % 8;
#pragma unroll 2
  for (int step = 0; step < rows.num_steps; ++step) {
    uint32_t q[4];
    LoadMatrices(q, queries + Place(rows.row_bytes, head, 2 * step + lane / 16));
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      uint32_t k[4];
      LoadMatrices(k, keys + Place(rows.row_bytes, key + 16 * pair, 2 * step + lane / 8 % 2));
      Mma(scores[2 * pair], q, {k[0], k[1]});
      Mma(scores[2 * pair + 1], q, {k[2], k[3]});
    }
  }
}

// Scores of `size` keys into weights, in shared memory, with a barrier for the maxima of the two halves of the keys.
__device__ inline void Weigh(const Shared& s, float scale, int size, float (&scores)[4][4], Softmax& softmax) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warp_m = warp % kWarpsM, half = warp / kWarpsM;
  const int group = lane / 4, quad = lane % 4;
  float max[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int tile = 0; tile < 4; ++tile) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const bool is_there = 32 * half + 8 * tile + 2 * quad + e % 2 < size;
      scores[tile][e] = is_there ? __fmul_rn(scores[tile][e], scale) : -INFINITY;
      max[e / 2] = scores[tile][e] > max[e / 2] ? scores[tile][e] : max[e / 2];
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    for (int d = 1; d < 4; d *= 2) {
      const float other = __shfl_xor_sync(0xFFFFFFFFu, max[r], d);
      max[r] = other > max[r] ? other : max[r];
    }
    if (quad == 0) s.per_half[half * kHeads + 16 * warp_m + 8 * r + group] = max[r];
  }
  __syncthreads();  // both halves' maxima are there, and nobody reads the last block's weights any more
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float other = s.per_half[(1 - half) * kHeads + 16 * warp_m + 8 * r + group];
    float new_max = max[r] > other ? max[r] : other;
    new_max = softmax.max[r] > new_max ? softmax.max[r] : new_max;
    softmax.rescale[r] = ExpF32(__fsub_rn(softmax.max[r], new_max));
    softmax.max[r] = new_max;
    float sum = __fmul_rn(softmax.sum[r], softmax.rescale[r]);
#pragma unroll
    for (int tile = 0; tile < 4; ++tile) {
      const float first = ExpF32(__fsub_rn(scores[tile][2 * r], new_max));
      const float second = ExpF32(__fsub_rn(scores[tile][2 * r + 1], new_max));
      sum = __fadd_rn(__fadd_rn(sum, first), second);
      *reinterpret_cast<uint32_t*>(s.weights + Place(kWeightRowBytes, 16 * warp_m + 8 * r + group, 4 * half + tile) +
                                   4 * quad) = PackBF16(first, second);
    }
    softmax.sum[r] = sum;
  }
}

// Adds a block's keys, weighted, to the warp's contexts: of 16 heads and its half of the columns.
__device__ inline void AddContexts(const Shared& s, const Rows& rows, int latent, const char* stage,
                                   const Softmax& softmax, float (&contexts)[2 * kMaxPairs][4]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warp_m = warp % kWarpsM, half = warp / kWarpsM;
  const uint32_t weights = SharedAddress(s.weights), keys = SharedAddress(stage);
  const int num_pairs = latent / 32, first_chunk = half * (latent / 16) + lane / 16;
#pragma unroll
  for (int tile = 0; tile < 2 * kMaxPairs; ++tile) {
#pragma unroll
    for (int e = 0; e < 4; ++e) contexts[tile][e] = __fmul_rn(contexts[tile][e], softmax.rescale[e / 2]);
  }
#pragma unroll
  for (int step = 0; step < kKeys / 16; ++step) {
    uint32_t w[4];
    LoadMatrices(w, weights + Place(kWeightRowBytes, 16 * warp_m + lane % 16, 2 * step + lane / 16));
#pragma unroll
    for (int pair = 0; pair < kMaxPairs; ++pair) {
      if (pair >= num_pairs) break;
      uint32_t k[4];
      LoadTransposed(k, keys + Place(rows.row_bytes, 16 * step + lane % 16, first_chunk + 2 * pair));
      Mma(contexts[2 * pair], w, {k[0], k[1]});
      Mma(contexts[2 * pair + 1], w, {k[2], k[3]});
    }
  }
}

// Contexts over the sums of all weights, zeros where there was no key. With a barrier, behind one.
__device__ inline void Store(const LatentAttentionArgs& a, const Shared& s, int64_t t, int first_head,
                             const Softmax& softmax, const float (&contexts)[2 * kMaxPairs][4]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warp_m = warp % kWarpsM, half = warp / kWarpsM;
  const int group = lane / 4, quad = lane % 4, latent = static_cast<int>(a.cache.first);
  float sum[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    sum[r] = softmax.sum[r];
    for (int d = 1; d < 4; d *= 2) sum[r] = __fadd_rn(sum[r], __shfl_xor_sync(0xFFFFFFFFu, sum[r], d));
    if (quad == 0) s.per_half[half * kHeads + 16 * warp_m + 8 * r + group] = sum[r];
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int h = 16 * warp_m + 8 * r + group;
    if (first_head + h >= a.heads) continue;
    const float all = __fadd_rn(s.per_half[h], s.per_half[kHeads + h]);
    float* out = a.out + (t * a.heads + first_head + h) * latent + half * (latent / 2) + 2 * quad;
#pragma unroll
    for (int tile = 0; tile < 2 * kMaxPairs; ++tile) {
      if (tile >= latent / 16) break;
      const float first = contexts[tile][2 * r], second = contexts[tile][2 * r + 1];
      *reinterpret_cast<float2*>(out + 8 * tile) =
          all == 0.0f ? make_float2(0.0f, 0.0f) : make_float2(__fdiv_rn(first, all), __fdiv_rn(second, all));
    }
  }
}

}  // namespace tokenferry::latent_mma

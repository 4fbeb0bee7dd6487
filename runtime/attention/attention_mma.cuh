// A tile of attention in Compute::kBF16 on tensor cores (core/kernels/mma.cuh): the heads that share keys, as many rows
// of both products. Scores are queries times keys, contexts are weights times values; contexts stay in registers, and
// keys and values are read once for all heads of the tile.
//
// kWarpsM warps lie over the heads, 16 each. kWarpsN warps share a block of kCacheBlockTokens keys when scores are
// computed, and the columns of the contexts, 16 at a time in turns. What a row's sums are depends on the keys' places
// in their blocks alone.
#pragma once

#include "core/kernels/exp.h"
#include "core/kernels/mma.cuh"
#include "runtime/attention/attention_kernels.h"
#include "runtime/attention/attention_splits.cuh"

namespace tokenferry::attention_mma {

constexpr int kKeys = kCacheBlockTokens, kWeightRowBytes = kKeys * 2;

// Rows of bf16 in shared memory: `width` values, as far as the next multiple of 16 filled up with zeros.
struct Rows {
  int num_chunks;  // of 16 bytes: those that are a row's own
  int num_steps;   // of 16 values
  int row_bytes;   // a multiple of 128

  __host__ __device__ explicit Rows(int width)
      : num_chunks(width / 8), num_steps((width + 15) / 16), row_bytes((width + 63) / 64 * 128) {}
};

// Where 16 bytes of a row lie: eight rows' chunk of one number are in different banks.
__device__ inline int Place(int row_bytes, int row, int chunk) { return row * row_bytes + ((chunk ^ (row & 7)) << 4); }

// A warp begins to copy row `row`, whose first bytes are `from`, to the rows at `to`; null: zeros, since a weight of 0
// makes no number of a NaN that memory may hold. `anywhere`: an address that may be read.
__device__ inline void CopyRow(const Rows& rows, int row, const char* from, const void* anywhere, uint32_t to) {
  for (int c = threadIdx.x % 32; c < 2 * rows.num_steps; c += 32) {
    const bool is_own = from != nullptr && c < rows.num_chunks;
    CopyAsync16(to + Place(rows.row_bytes, row, c), is_own ? from + 16 * c : anywhere, is_own ? 16 : 0);
  }
}

// Two neighbouring values of a query, rounded.
__device__ inline void PutPair(const Rows& rows, int row, int i, float first, float second, char* to) {
  *reinterpret_cast<uint32_t*>(to + Place(rows.row_bytes, row, i / 8) + i % 8 * 2) = PackBF16(first, second);
}

template <int kWarpsM, int kWarpsN, int kMaxPairs>
class Tile {
 public:
  static constexpr int kHeads = 16 * kWarpsM, kThreads = 32 * kWarpsM * kWarpsN;
  static constexpr int kKeyPairs = kKeys / 16 / kWarpsN;  // of eight keys, that a warp scores
  // Shared memory of its own: weights [kHeads, kKeys] bf16, and a float per head and warp over the keys.
  static constexpr int kBytes = kHeads * kWeightRowBytes + kWarpsN * kHeads * static_cast<int>(sizeof(float));

  // What a block of keys is multiplied with and as: rows in shared memory, kHeads of them and twice kKeys.
  struct Operands {
    const char *queries, *keys, *values;
    Rows rows;
    int num_pairs;  // of eight columns of a value
  };

  __device__ explicit Tile(char* memory)
      : weights_(memory),
        per_part_(reinterpret_cast<float*>(memory + kHeads * kWeightRowBytes)),
        lane_(threadIdx.x % 32),
        warp_m_(threadIdx.x / 32 % kWarpsM),
        part_(threadIdx.x / 32 / kWarpsM) {}

  // A score without a value, of each head.
  template <class Sink>
  __device__ void BeginWith(const Sink& sink) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      max_[r] = sink(Head(r));
      sum_[r] = part_ == 0 && lane_ % 4 == 0 ? 1.0f : 0.0f;
    }
  }

  // Adds a block of keys, of which each head sees one at least. rule(dot, head, key): the score, or -infinity where the
  // head does not see it. Two barriers; what it reads has been written before one, and nothing is read any more behind
  // the next.
  template <class Rule>
  __device__ void Add(const Operands& in, const Rule& rule) {
    float scores[2 * kKeyPairs][4] = {};
    Score(in, scores);
    Weigh(rule, scores);
    __syncthreads();  // weights are there, and nobody reads the maxima any more
    AddContexts(in);
  }

  // Adds the contexts of the split, over the sums of all weights when it is the last; zeros where there was no key.
  // out(head): the columns of one of the tile's num_heads heads. With barriers, behind one.
  template <class Out>
  __device__ void Finish(const Split& split, int num_heads, int num_pairs, const Out& out) {
#pragma unroll
    for (float& sum : sum_) {
      for (int d = 1; d < 4; d *= 2) sum = __fadd_rn(sum, __shfl_xor_sync(0xFFFFFFFFu, sum, d));
    }
    PutPerPart(sum_);
    split.AwaitTurn();
    __syncthreads();  // all parts' sums are there, and what splits before this one have left
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (Head(r) >= num_heads) break;
      float all = per_part_[Head(r)];
#pragma unroll
      for (int part = 1; part < kWarpsN; ++part) all = __fadd_rn(all, per_part_[part * kHeads + Head(r)]);
      const SplitScale scale(split, Head(r), max_[r], all);
      PutColumns(r, num_pairs, out(Head(r)) + lane_ % 4 * 2, scale);
      max_[r] = scale.max, sum_[r] = scale.sum;
    }
    if (split.is_only()) return;
    __syncthreads();  // everybody has read the sums
    for (int r = 0; r < 2; ++r) {
      if (part_ == 0 && lane_ % 4 == 0 && Head(r) < num_heads) split.sums[Head(r)] = make_float2(sum_[r], max_[r]);
    }
    __syncthreads();  // contexts and sums have been written
    split.PassTurn();
  }

 private:
  // Of the two that a thread has.
  __device__ int Head(int r) const { return 16 * warp_m_ + 8 * r + lane_ / 4; }

  // Columns of head Head(r), two neighbouring ones at a time.
  __device__ void PutColumns(int r, int num_pairs, float* to, const SplitScale& scale) const {
#pragma unroll
    for (int i = 0; i < kMaxPairs; ++i) {
      const int pair = part_ + kWarpsN * i;
      if (pair >= num_pairs) break;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        auto* place = reinterpret_cast<float2*>(to + 16 * pair + 8 * half);
        *place = scale(make_float2(contexts_[2 * i + half][2 * r], contexts_[2 * i + half][2 * r + 1]), place);
      }
    }
  }

  // What the threads of a quad agree on. Behind all shuffles: between them the compiler would part the warp, with a
  // copy of a shuffle on either way.
  __device__ void PutPerPart(const float (&value)[2]) {
    if (lane_ % 4 != 0) return;
    for (int r = 0; r < 2; ++r) per_part_[part_ * kHeads + Head(r)] = value[r];
  }

  __device__ void Score(const Operands& in, float (&scores)[2 * kKeyPairs][4]) const {
    const uint32_t queries = SharedAddress(in.queries), keys = SharedAddress(in.keys);
    const int row_bytes = in.rows.row_bytes;
    const int head = 16 * warp_m_ + lane_ % 16, key = 16 * kKeyPairs * part_ + lane_ / 16 * 8 + lane_ % 8;
#pragma unroll 2
    for (int step = 0; step < in.rows.num_steps; ++step) {
      uint32_t q[4];
      LoadMatrices(q, queries + Place(row_bytes, head, 2 * step + lane_ / 16));
#pragma unroll
      for (int pair = 0; pair < kKeyPairs; ++pair) {
        uint32_t k[4];
        LoadMatrices(k, keys + Place(row_bytes, key + 16 * pair, 2 * step + lane_ / 8 % 2));
        Mma(scores[2 * pair], q, {k[0], k[1]});
        Mma(scores[2 * pair + 1], q, {k[2], k[3]});
      }
    }
  }

  // Scores into weights, in shared memory, with a barrier for the maxima of all parts of the keys.
  template <class Rule>
  __device__ void Weigh(const Rule& rule, float (&scores)[2 * kKeyPairs][4]) {
    const int quad = lane_ % 4;
    float max[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int tile = 0; tile < 2 * kKeyPairs; ++tile) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int key = 16 * kKeyPairs * part_ + 8 * tile + 2 * quad + e % 2;
        scores[tile][e] = rule(scores[tile][e], Head(e / 2), key);
        max[e / 2] = scores[tile][e] > max[e / 2] ? scores[tile][e] : max[e / 2];
      }
    }
#pragma unroll
    for (float& largest : max) {
      for (int d = 1; d < 4; d *= 2) {
        const float other = __shfl_xor_sync(0xFFFFFFFFu, largest, d);
        largest = other > largest ? other : largest;
      }
    }
    PutPerPart(max);
    __syncthreads();  // all parts' maxima are there, and nobody reads the last block's weights any more
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float new_max = max_[r];
#pragma unroll
      for (int part = 0; part < kWarpsN; ++part) {
        const float other = per_part_[part * kHeads + Head(r)];
        new_max = other > new_max ? other : new_max;
      }
      rescale_[r] = ExpF32(__fsub_rn(max_[r], new_max));
      max_[r] = new_max;
      float sum = __fmul_rn(sum_[r], rescale_[r]);
#pragma unroll
      for (int tile = 0; tile < 2 * kKeyPairs; ++tile) {
        const float first = ExpF32(__fsub_rn(scores[tile][2 * r], new_max));
        const float second = ExpF32(__fsub_rn(scores[tile][2 * r + 1], new_max));
        sum = __fadd_rn(__fadd_rn(sum, first), second);
        *reinterpret_cast<uint32_t*>(weights_ + Place(kWeightRowBytes, Head(r), 2 * kKeyPairs * part_ + tile) +
                                     4 * quad) = PackBF16(first, second);
      }
      sum_[r] = sum;
    }
  }

  __device__ void AddContexts(const Operands& in) {
    const uint32_t weights = SharedAddress(weights_), values = SharedAddress(in.values);
#pragma unroll
    for (int tile = 0; tile < 2 * kMaxPairs; ++tile) {
#pragma unroll
      for (int e = 0; e < 4; ++e) contexts_[tile][e] = __fmul_rn(contexts_[tile][e], rescale_[e / 2]);
    }
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) {
      uint32_t w[4];
      LoadMatrices(w, weights + Place(kWeightRowBytes, 16 * warp_m_ + lane_ % 16, 2 * step + lane_ / 16));
#pragma unroll
      for (int i = 0; i < kMaxPairs; ++i) {
        const int pair = part_ + kWarpsN * i;
        if (pair >= in.num_pairs) break;
        uint32_t v[4];
        LoadTransposed(v, values + Place(in.rows.row_bytes, 16 * step + lane_ % 16, 2 * pair + lane_ / 16));
        Mma(contexts_[2 * i], w, {v[0], v[1]});
        Mma(contexts_[2 * i + 1], w, {v[2], v[3]});
      }
    }
  }

  char* const weights_;
  float* const per_part_;
  const int lane_, warp_m_, part_;
  // Of a thread's two heads. Sums are of the keys whose scores it has; of all keys they are in the end.
  float max_[2] = {-INFINITY, -INFINITY}, sum_[2] = {}, rescale_[2] = {};
  float contexts_[2 * kMaxPairs][4] = {};
};

// A block's shared memory: queries, then stages of kRowsPerKey rows for each of kKeys keys, then the tile's own.
template <class Tile, int kRowsPerKey>
struct Layout {
  Rows rows;

  __host__ __device__ explicit Layout(int width) : rows(width) {}
  __host__ __device__ int stages() const { return Tile::kHeads * rows.row_bytes; }  // where they begin
  __host__ __device__ int stage_bytes() const { return kRowsPerKey * kKeys * rows.row_bytes; }
  __host__ __device__ int tile(int num_stages) const { return stages() + num_stages * stage_bytes(); }
  __host__ size_t bytes(int num_stages) const { return tile(num_stages) + Tile::kBytes; }
};

// The blocks of keys of a tile, one after the other: load(number, stage) begins to copy block `number` into one of
// kStages stages, add(number, stage) takes it. With two stages the next is copied while one is multiplied.
template <int kStages, class Load, class Add>
__device__ inline void ForBlocks(int64_t num_blocks, const Load& load, const Add& add) {
  if (num_blocks == 0) return;
  load(0, 0);
  CommitCopies();
  for (int64_t number = 0; number < num_blocks; ++number) {
    const int stage = static_cast<int>(number % kStages);
    WaitForCopies<0>();
    __syncthreads();  // everybody's copies have arrived, and what the last block needed has been read
    if (kStages == 2 && number + 1 < num_blocks) {
      load(number + 1, 1 - stage);
      CommitCopies();
    }
    add(number, stage);
    if (kStages == 1 && number + 1 < num_blocks) {
      __syncthreads();  // the keys have been read
      load(number + 1, 0);
      CommitCopies();
    }
  }
}

}  // namespace tokenferry::attention_mma

#include "core/device/cuda_launch.cuh"
#include "runtime/attention/latent_attention_mma.cuh"
#include "runtime/attention/latent_attention_mma.h"

namespace tokenferry {
namespace {

using namespace latent_mma;

// A block per (token, 64 heads); those of a token side by side, so that all but the first find the keys in L2. With two
// stages the next keys are copied while these are multiplied.
template <bool kIsSparse, int kStages>
__global__ void __launch_bounds__(kThreads, 1) LatentAttentionMma(LatentAttentionArgs a, int num_head_tiles) {
  extern __shared__ __align__(128) char shared[];
  const int64_t t = blockIdx.x / num_head_tiles;
  const int first_head = static_cast<int>(blockIdx.x % num_head_tiles) * kHeads,
            latent = static_cast<int>(a.cache.first);
  const Rows rows(latent + a.rope);
  const Shared s(shared, rows, kStages);
  const KeysOf<kIsSparse> keys(a, t);
  LoadQueries(a, t, first_head, rows, s.queries);
  Softmax softmax;
  float contexts[2 * kMaxPairs][4] = {};
  keys.Load(0, rows, s.keys);
  CommitCopies();
  for (int64_t begin = 0; begin < keys.count; begin += kKeys) {
    const char* stage = s.keys + (kStages == 1 ? 0 : begin / kKeys % 2 * rows.bytes());
    WaitForCopies<0>();
    __syncthreads();  // everybody's copies have arrived, and what the last block of keys needed has been read
    if (kStages == 2 && begin + kKeys < keys.count) {
      keys.Load(begin + kKeys, rows, s.keys + (begin / kKeys + 1) % 2 * rows.bytes());
      CommitCopies();
    }
    float scores[4][4] = {};
    Score(s, rows, stage, scores);
    Weigh(s, a.scale, static_cast<int>(min(keys.count - begin, int64_t{kKeys})), scores, softmax);
    __syncthreads();  // weights are there, and nobody reads the maxima any more
    AddContexts(s, rows, latent, stage, softmax, contexts);
    if (kStages == 1 && begin + kKeys < keys.count) {
      __syncthreads();  // the keys have been read
      keys.Load(begin + kKeys, rows, s.keys);
      CommitCopies();
    }
  }
  WaitForCopies<0>();
  Store(a, s, t, first_head, softmax, contexts);
}

template <bool kIsSparse, int kStages>
absl::Status Launch(const LatentAttentionArgs& a, size_t shared_bytes, void* stream) {
  const int64_t num_head_tiles = CeilDiv(a.heads, kHeads);
  return LaunchKernel(LatentAttentionMma<kIsSparse, kStages>,
                      {a.tokens.num_tokens * num_head_tiles, kThreads, shared_bytes}, stream, a, num_head_tiles);
}

template <bool kIsSparse>
absl::Status LaunchForMemory(const LatentAttentionArgs& a, void* stream) {
  const Rows rows(static_cast<int>(a.cache.first) + a.rope);
  TF_ASSIGN_OR_RETURN(const size_t most, MostSharedBytes());
  const size_t with_two = Shared::Bytes(rows, 2);
  return with_two <= most ? Launch<kIsSparse, 2>(a, with_two, stream)
                          : Launch<kIsSparse, 1>(a, Shared::Bytes(rows, 1), stream);
}

}  // namespace

absl::StatusOr<bool> TakesTensorCores(const LatentAttentionArgs& a) {
  const int64_t width = a.cache.first + a.rope;
  if (a.compute != Compute::kBF16 || a.cache.dtype != DType::kBF16 || a.cache.first % 32 != 0 ||
      a.cache.first > kMaxLatent || a.rope > 64 || width % 8 != 0) {
    return false;
  }
  TF_ASSIGN_OR_RETURN(const size_t most, MostSharedBytes());
  return Shared::Bytes(Rows(static_cast<int>(width)), 1) <= most;
}

absl::Status CudaMmaLatentAttention(const LatentAttentionArgs& a, void* stream) {
  return a.selected != nullptr ? LaunchForMemory<true>(a, stream) : LaunchForMemory<false>(a, stream);
}

}  // namespace tokenferry

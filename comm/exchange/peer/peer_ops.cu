#include "comm/exchange/peer/peer_ops.h"
#include "comm/ops/sum_terms.cuh"
#include "core/device/cuda_launch.cuh"
#include "core/formats/scalar.h"
#include "core/kernels/offsets.cuh"
#include "core/kernels/row_copy.cuh"

namespace tokenferry {
namespace {

// Flags and reports are read and written by other GPUs and by the host: scope .sys, and no plain access.
__device__ int64_t LoadAcquire(const int64_t* word) {
  int64_t value;
  asm volatile("ld.acquire.sys.global.s64 %0, [%1];" : "=l"(value) : "l"(word) : "memory");
  return value;
}
__device__ void StoreRelease(int64_t* word, int64_t value) {
  asm volatile("st.release.sys.global.s64 [%0], %1;" ::"l"(word), "l"(value) : "memory");
}
__device__ void StoreRelaxed(int64_t* word, int64_t value) {
  asm volatile("st.relaxed.sys.global.s64 [%0], %1;" ::"l"(word), "l"(value) : "memory");
}
__device__ int64_t ClockNanos() {
  int64_t nanos;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(nanos));
  return nanos;
}

__device__ int64_t* FlagsOf(const PeerPart& part, PeerStage stage, int num_ranks) {
  return part.flags + static_cast<int>(stage) * num_ranks;
}

// One block, a thread per rank.
__global__ void RaiseFlagsKernel(RaiseFlagsArgs a) {
  const PeerGroupView& g = a.group;
  if (*g.gave_up != 0) return;
  const int64_t sequence = *g.sequence + (a.stage == PeerStage::kRows ? 1 : 0);
  __syncthreads();  // everybody has read it
  if (threadIdx.x == 0) *g.sequence = sequence;
  __threadfence_system();  // what earlier kernels wrote comes before the flags, also for those who read it over a link
  for (int r = threadIdx.x; r < g.num_ranks; r += blockDim.x) {
    StoreRelease(FlagsOf(g.parts[r], a.stage, g.num_ranks) + g.rank, sequence);
  }
}

constexpr int kSpins = 64;  // looks at a flag in a row, before a thread sleeps between two
constexpr unsigned kSleepNanos = 200;

// What a thread found: the rank, and how long it was waited for.
struct Wait {
  bool gave_up = false;
  int64_t nanos = 0;  // 0: it was there
};

__device__ Wait AwaitFlag(const AwaitFlagsArgs& a, const int64_t* flag, int64_t sequence, int64_t start) {
  Wait wait;
  for (int num_looks = 0; LoadAcquire(flag) < sequence; ++num_looks) {
    if (num_looks >= kSpins) {
      wait.gave_up = LoadAcquire(&a.report->stop) != 0 || ClockNanos() - start > a.timeout_ns;
      if (wait.gave_up) return wait;
      __nanosleep(kSleepNanos);
    }
    wait.nanos = 1;
  }
  if (wait.nanos > 0) wait.nanos = max(int64_t{1}, ClockNanos() - start);
  return wait;
}

// One block, a thread per rank.
__global__ void AwaitFlagsKernel(AwaitFlagsArgs a) {
  __shared__ unsigned long long longest;  // nanoseconds, and in the low bits the rank
  __shared__ int any_gave_up;
  constexpr int kRankBits = 16;
  const PeerGroupView& g = a.group;
  if (*g.gave_up != 0) return;
  const int64_t sequence = *g.sequence, start = ClockNanos();
  if (threadIdx.x == 0) {
    longest = 0;
    any_gave_up = 0;
    StoreRelaxed(&a.report->layer, a.layer);
    StoreRelaxed(&a.report->step, a.step);
    StoreRelaxed(&a.report->stage, static_cast<int64_t>(a.stage));
    StoreRelaxed(&a.report->sequence, sequence);
  }
  __syncthreads();
  const int64_t* flags = FlagsOf(g.parts[g.rank], a.stage, g.num_ranks);
  for (int r = threadIdx.x; r < g.num_ranks; r += blockDim.x) {
    const Wait wait = AwaitFlag(a, flags + r, sequence, start);
    if (wait.gave_up) atomicOr(&any_gave_up, 1);
    if (wait.nanos > 0) atomicMax(&longest, static_cast<unsigned long long>(wait.nanos) << kRankBits | r);
  }
  __syncthreads();
  if (any_gave_up == 0) {
    if (threadIdx.x == 0 && longest > 0) {
      a.wait_ns_per_rank[longest & ((1 << kRankBits) - 1)] += static_cast<int64_t>(longest >> kRankBits);
    }
    return;
  }
  for (int r = threadIdx.x; r < g.num_ranks; r += blockDim.x) StoreRelaxed(a.seen + r, LoadAcquire(flags + r));
  __threadfence_system();
  __syncthreads();
  if (threadIdx.x != 0) return;
  *g.gave_up = 1;
  StoreRelease(&a.report->gave_up, 1);
}

// A block per row that may arrive.
__global__ void PullRowsKernel(PullRowsArgs a) {
  const PeerGroupView& g = a.group;
  const int64_t j = blockIdx.x;
  if (j >= a.row_offsets[g.num_ranks]) return;
  const int r = GroupHolding(a.row_offsets, g.num_ranks, j);
  const PeerPart part = g.parts[r];
  const int64_t token = part.row_token[part.send.row_offsets[g.rank] + j - a.row_offsets[r]];
  CopyBytesByBlock(a.out + j * a.row_bytes, part.rows + token * a.row_bytes, a.row_bytes);
}

// A block per token; first, a thread per term finds where it lies.
template <class T>
__global__ void CombinePeersKernel(CombinePeersArgs a, int64_t vector_cols) {
  extern __shared__ char terms[];
  const PeerGroupView& g = a.group;
  if (*g.gave_up != 0) return;
  const int64_t t = blockIdx.x, begin = a.combine_offsets[t];
  const int num_terms = static_cast<int>(a.combine_offsets[t + 1] - begin);
  auto* outputs = reinterpret_cast<const T**>(terms);                                  // [K]
  auto* weights = reinterpret_cast<float*>(terms + a.weight.cols * sizeof(const T*));  // [K]
  for (int i = threadIdx.x; i < num_terms; i += blockDim.x) {
    const int64_t s = a.combine_selection[begin + i];
    const int r = GroupHolding(a.selection_offsets, g.num_ranks, s);
    const PeerPart part = g.parts[r];
    const int64_t at = part.return_selection[part.recv_selection_offsets[g.rank] + s - a.selection_offsets[r]];
    outputs[i] = reinterpret_cast<const T*>(part.outputs) + at * a.out.cols;
    weights[i] = a.weight.row(t)[a.combine_k[begin + i]];
  }
  __syncthreads();
  SumTerms<T>(
      num_terms, [&](int i) { return weights[i]; }, [&](int i) { return outputs[i]; }, a.out.cols, vector_cols,
      a.out.row(t));
}

template <class T>
absl::Status CombinePeers(const CombinePeersArgs& a, void* stream) {
  const int64_t cols = a.out.cols, vector_cols = VectorCols<T>(nullptr, cols, a.out);
  const LaunchShape shape = {a.out.rows, SumThreads<T>(cols, vector_cols),
                             static_cast<size_t>(a.weight.cols) * (sizeof(void*) + sizeof(float))};
  return LaunchKernel(CombinePeersKernel<T>, shape, stream, a, vector_cols);
}

}  // namespace

absl::Status CudaRaiseFlags(const RaiseFlagsArgs& a, void* stream) {
  return LaunchKernel(RaiseFlagsKernel, {1, ThreadsFor(a.group.num_ranks)}, stream, a);
}

absl::Status CudaAwaitFlags(const AwaitFlagsArgs& a, void* stream) {
  return LaunchKernel(AwaitFlagsKernel, {1, ThreadsFor(a.group.num_ranks)}, stream, a);
}

absl::Status CudaPullRows(const PullRowsArgs& a, void* stream) {
  return LaunchKernel(PullRowsKernel, {a.max_rows, ThreadsFor(a.row_bytes / 16)}, stream, a);
}

absl::Status CudaCombinePeers(const CombinePeersArgs& a, void* stream) {
  return a.dtype == DType::kBF16 ? CombinePeers<BF16>(a, stream) : CombinePeers<float>(a, stream);
}

}  // namespace tokenferry

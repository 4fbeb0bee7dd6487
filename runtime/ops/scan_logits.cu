#include "core/device/cuda_launch.cuh"
#include "runtime/ops/exp_f64.h"
#include "runtime/ops/scan_logits.h"

namespace tokenferry {
namespace {

constexpr int kScanThreads = kSumChains;
constexpr int kScanWarps = kScanThreads / kWarpSize;
static_assert(kScanWarps == kWarpSize);  // a warp's lanes are the warps of the block

// Whether `x` comes before `y` among the candidates; a token < 0 is none.
__device__ bool ComesBefore(const LogitCandidate& x, const LogitCandidate& y) {
  if (x.token < 0 || y.token < 0) return x.token >= 0 && y.token < 0;
  return x.logit > y.logit || (x.logit == y.logit && x.token < y.token);
}

__device__ LogitCandidate FirstOfWarp(LogitCandidate first) {
  for (int width = kWarpSize / 2; width > 0; width /= 2) {
    LogitCandidate other;
    other.token = __shfl_xor_sync(kWholeWarp, first.token, width);
    other.logit = __shfl_xor_sync(kWholeWarp, first.logit, width);
    if (ComesBefore(other, first)) first = other;
  }
  return first;
}

__device__ int32_t SmallestOfWarp(int32_t x) {
  for (int width = kWarpSize / 2; width > 0; width /= 2) {
    const int32_t other = __shfl_xor_sync(kWholeWarp, x, width);
    x = other < x ? other : x;
  }
  return x;
}

// Of this thread's tokens, threadIdx.x, threadIdx.x + kScanThreads, .., the first one after `last`.
__device__ LogitCandidate FirstOwnAfter(const float* logits, int32_t size, const LogitCandidate& last) {
  LogitCandidate first;
#pragma unroll 4
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < size; i += kScanThreads) {
    const LogitCandidate candidate{i, logits[i]};
    if (ComesBefore(last, candidate) && ComesBefore(candidate, first)) first = candidate;
  }
  return first;
}

// A block per row. Every thread holds the first candidate among its own tokens; the block's first is taken, and the
// thread that held it looks for its next one.
__global__ void __launch_bounds__(kScanThreads) ScanLogitsKernel(ScanLogitsArgs a) {
  // Two of each, in turns: a warp may be one round ahead of those that still read.
  __shared__ int32_t token_per_warp[2][kScanWarps];
  __shared__ float logit_per_warp[2][kScanWarps];
  __shared__ int32_t bad_per_warp[kScanWarps];
  __shared__ double chains[kScanThreads];
  const int32_t wanted = a.num_candidates[blockIdx.x];
  if (wanted == 0) return;
  const float* logits = a.logits.row(blockIdx.x);
  const int32_t size = static_cast<int32_t>(a.logits.cols);
  const int32_t num_candidates = wanted < size ? wanted : size;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarpSize, warp = thread / kWarpSize;
  LogitSummary& out = a.out[blockIdx.x];

  LogitCandidate own;
  int32_t bad = size;
#pragma unroll 4
  for (int32_t i = thread; i < size; i += kScanThreads) {
    const LogitCandidate candidate{i, logits[i]};
    if (!(candidate.logit < INFINITY) && bad == size) bad = i;
    if (ComesBefore(candidate, own)) own = candidate;
  }
  bad = SmallestOfWarp(bad);
  if (lane == 0) bad_per_warp[warp] = bad;

  LogitCandidate largest;
  for (int32_t c = 0; c < num_candidates; ++c) {
    const LogitCandidate first = FirstOfWarp(own);
    if (lane == 0) {
      token_per_warp[c % 2][warp] = first.token;
      logit_per_warp[c % 2][warp] = first.logit;
    }
    __syncthreads();
    const LogitCandidate taken = FirstOfWarp({token_per_warp[c % 2][lane], logit_per_warp[c % 2][lane]});
    if (c == 0) {
      bad = SmallestOfWarp(bad_per_warp[lane]);
      if (bad < size) break;
      largest = taken;
    }
    if (thread == 0) out.candidates[c] = taken;
    if (own.token == taken.token) own = FirstOwnAfter(logits, size, taken);
  }
  if (thread == 0) {
    out.bad_token = bad < size ? bad : -1;
    out.largest = bad < size ? logits[bad] : largest.logit;
    out.num_candidates = bad < size ? 0 : num_candidates;
  }
  if (bad < size) return;

  double chain = 0;
#pragma unroll 4
  for (int32_t i = thread; i < size; i += kScanThreads) {
    chain = __dadd_rn(chain, ExpNotPositive(static_cast<double>(logits[i]) - static_cast<double>(largest.logit)));
  }
  chains[thread] = chain;
  for (int width = kScanThreads / 2; width > 0; width /= 2) {
    __syncthreads();
    if (thread < width) chains[thread] = __dadd_rn(chains[thread], chains[thread + width]);
  }
  if (thread == 0) out.sum_exp = chains[0];
}

}  // namespace

absl::Status CudaScanLogits(const ScanLogitsArgs& args, void* stream) {
  return LaunchKernel(ScanLogitsKernel, {args.logits.rows, kScanThreads}, stream, args);
}

}  // namespace tokenferry

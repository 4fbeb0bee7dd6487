#include "comm/exchange/peer/peer_ops.h"

#include <atomic>
#include <cmath>
#include <cstring>

#include "core/device/cuda_launcher.h"
#include "core/host/wait.h"

namespace tokenferry {
namespace {

int64_t LoadAcquire(int64_t& word) { return std::atomic_ref<int64_t>(word).load(std::memory_order_acquire); }
void StoreRelease(int64_t& word, int64_t value) {
  std::atomic_ref<int64_t>(word).store(value, std::memory_order_release);
}
void StoreRelaxed(int64_t& word, int64_t value) {
  std::atomic_ref<int64_t>(word).store(value, std::memory_order_relaxed);
}

int64_t* FlagsOf(const PeerPart& part, PeerStage stage, int num_ranks) {
  return part.flags + static_cast<int>(stage) * num_ranks;
}

// The rank that [offsets[rank], offsets[rank + 1]) holds i for.
int RankHolding(const int64_t* offsets, int64_t i) {
  int rank = 0;
  while (offsets[rank + 1] <= i) ++rank;
  return rank;
}

void RaiseFlags(const RaiseFlagsArgs& a) {
  const PeerGroupView& g = a.group;
  if (*g.gave_up != 0) return;
  if (a.stage == PeerStage::kRows) ++*g.sequence;
  for (int r = 0; r < g.num_ranks; ++r) StoreRelease(FlagsOf(g.parts[r], a.stage, g.num_ranks)[g.rank], *g.sequence);
}

void AwaitFlags(const AwaitFlagsArgs& a) {
  const PeerGroupView& g = a.group;
  if (*g.gave_up != 0) return;
  StoreRelaxed(a.report->layer, a.layer);
  StoreRelaxed(a.report->step, a.step);
  StoreRelaxed(a.report->stage, static_cast<int64_t>(a.stage));
  StoreRelaxed(a.report->sequence, *g.sequence);
  int64_t* flags = FlagsOf(g.parts[g.rank], a.stage, g.num_ranks);
  const int64_t start = SteadyNanos();
  SpinWait turn;
  for (int r = 0, num_waits = 0, last = -1; r < g.num_ranks; ++r) {
    for (; LoadAcquire(flags[r]) < *g.sequence; ++num_waits) {
      last = r;
      if (LoadAcquire(a.report->stop) != 0 || SteadyNanos() - start > a.timeout_ns) {
        for (int i = 0; i < g.num_ranks; ++i) StoreRelaxed(a.seen[i], LoadAcquire(flags[i]));
        *g.gave_up = 1;
        return StoreRelease(a.report->gave_up, 1);
      }
      turn.Pause();
    }
    if (r + 1 == g.num_ranks && last >= 0) a.wait_ns_per_rank[last] += SteadyNanos() - start;
  }
}

void PullRows(const PullRowsArgs& a) {
  const PeerGroupView& g = a.group;
  for (int r = 0; r < g.num_ranks; ++r) {
    const PeerPart& part = g.parts[r];
    for (int64_t j = a.row_offsets[r]; j < a.row_offsets[r + 1]; ++j) {
      const int32_t token = part.row_token[part.send.row_offsets[g.rank] + j - a.row_offsets[r]];
      std::memcpy(a.out + j * a.row_bytes, part.rows + token * a.row_bytes, a.row_bytes);
    }
  }
}

template <class T>
void CombineOf(const CombinePeersArgs& a) {
  const PeerGroupView& g = a.group;
  for (int64_t t = 0; t < a.out.rows; ++t) {
    float* sums = a.out.row(t);
    std::fill_n(sums, a.out.cols, 0.0f);
    for (int64_t i = a.combine_offsets[t]; i < a.combine_offsets[t + 1]; ++i) {
      const int64_t s = a.combine_selection[i];
      const int r = RankHolding(a.selection_offsets, s);
      const PeerPart& part = g.parts[r];
      const int64_t at =
          part.return_selection[part.recv_selection_offsets[g.rank] + s - a.selection_offsets[r]] * a.out.cols;
      const T* output = reinterpret_cast<const T*>(part.outputs) + at;
      const float weight = a.weight.row(t)[a.combine_k[i]];
      for (int64_t c = 0; c < a.out.cols; ++c) sums[c] = std::fma(weight, ToFloat(output[c]), sums[c]);
    }
  }
}

void CombinePeers(const CombinePeersArgs& a) {
  if (*a.group.gave_up != 0) return;
  if (a.dtype == DType::kBF16) return CombineOf<BF16>(a);
  CombineOf<float>(a);
}

}  // namespace

absl::Status CudaRaiseFlags(const RaiseFlagsArgs& args, void* stream);  // peer_ops.cu
absl::Status CudaAwaitFlags(const AwaitFlagsArgs& args, void* stream);
absl::Status CudaPullRows(const PullRowsArgs& args, void* stream);
absl::Status CudaCombinePeers(const CombinePeersArgs& args, void* stream);

const Op<RaiseFlagsArgs> kRaiseFlags{"raise flags", RaiseFlags, nullptr, TF_CUDA_LAUNCHER(CudaRaiseFlags)};
const Op<AwaitFlagsArgs> kAwaitFlags{"await flags", AwaitFlags, nullptr, TF_CUDA_LAUNCHER(CudaAwaitFlags)};
const Op<PullRowsArgs> kPullRows{"pull rows", PullRows, nullptr, TF_CUDA_LAUNCHER(CudaPullRows)};
const Op<CombinePeersArgs> kCombinePeers{"combine peers", CombinePeers, nullptr, TF_CUDA_LAUNCHER(CudaCombinePeers)};

}  // namespace tokenferry

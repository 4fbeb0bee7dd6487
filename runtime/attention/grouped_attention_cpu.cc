#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "runtime/attention/attention_kernels.h"
#include "runtime/attention/softmax_rows.h"
#include "runtime/ops/row_kernels.h"

namespace tokenferry::attention_cpu {
namespace {

// Tokens [token_begin, + num_tokens), all of one sequence, times the query heads of one key-value head.
struct GroupedTask {
  int64_t token_begin = 0, num_tokens = 0, kv_head = 0;
};

// Any cut gives the same results: every query is computed on its own, in order of its keys.
void PlanGrouped(const GroupedAttentionArgs& args, int num_threads, std::vector<GroupedTask>& tasks) {
  tasks.clear();
  const TokenPositions& tokens = args.tokens;
  int64_t most_tokens = std::max<int64_t>(1, kQueriesPerTask / (args.heads / args.kv_heads));
  while (most_tokens > 1 && tokens.num_tokens * args.kv_heads < most_tokens * num_threads) most_tokens /= 2;
  for (int64_t begin = 0, end = 0; begin < tokens.num_tokens; begin = end) {
    while (end < tokens.num_tokens && end - begin < most_tokens && tokens.seq[end] == tokens.seq[begin]) ++end;
    for (int64_t h = 0; h < args.kv_heads; ++h) tasks.push_back({begin, end - begin, h});
  }
}

// The queries of one task, row (token, head of the group), and their softmax so far.
class GroupedWorker {
 public:
  GroupedWorker(const GroupedAttentionArgs& args, const RowKernels& kernels, const GroupedTask& task)
      : args_(args),
        kernels_(kernels),
        task_(task),
        group_(args.heads / args.kv_heads),
        dim_(args.head_dim),
        keys_(ScratchFloats(2 * kCacheBlockTokens * dim_ + SoftmaxRows::NumFloats(num_rows(), dim_, dim_))),
        values_(keys_ + kCacheBlockTokens * dim_),
        rows_(kernels, num_rows(), dim_, dim_, args.scale, values_ + kCacheBlockTokens * dim_) {}

  void Run() {
    int64_t first = std::numeric_limits<int64_t>::max(), last = -1;
    for (int64_t t = 0; t < task_.num_tokens; ++t) {
      Start(t);
      if (Position(t) < 0) continue;
      first = std::min(first, First(t));
      last = std::max(last, Last(t));
    }
    for (int64_t block = first / kCacheBlockTokens; last >= 0 && block <= last / kCacheBlockTokens; ++block) {
      VisitBlock(block * kCacheBlockTokens, std::min(last + 1, (block + 1) * kCacheBlockTokens));
    }
    for (int64_t row = 0; row < num_rows(); ++row) {
      rows_.Store(row, args_.out + (ArgsRow(row / group_) + row % group_) * dim_);
    }
  }

 private:
  int64_t num_rows() const { return task_.num_tokens * group_; }
  int64_t Position(int64_t t) const { return args_.tokens.position[task_.token_begin + t]; }
  int64_t Last(int64_t t) const { return args_.Last(task_.token_begin + t); }
  int64_t First(int64_t t) const { return args_.keys.First(Position(t)); }
  // Of the token's first head in the task.
  int64_t ArgsRow(int64_t t) const { return (task_.token_begin + t) * args_.heads + task_.kv_head * group_; }

  void Start(int64_t t) {
    CopyRounded(args_.q + ArgsRow(t) * dim_, group_ * dim_, args_.compute, rows_.query(t * group_));
    if (args_.sinks == nullptr) return;
    for (int64_t g = 0; g < group_; ++g) rows_.BeginWithSink(t * group_ + g, args_.sinks[task_.kv_head * group_ + g]);
  }

  // Keys [begin, end) of one cache block, for each run of tokens that see the same of them.
  void VisitBlock(int64_t begin, int64_t end) {
    const int64_t row = CacheRow(args_.cache, args_.tokens.seq[task_.token_begin], begin);
    const Rows keys = Part(row, task_.kv_head * dim_, end - begin, keys_);
    const Rows values = Part(row, args_.cache.first + task_.kv_head * dim_, end - begin, values_);
    const auto seen = [&](int64_t t) { return std::pair(std::max(First(t), begin), std::min(Last(t) + 1, end)); };
    for (int64_t t = 0, run_end = 0; t < task_.num_tokens; t = run_end) {
      const auto range = seen(t);
      for (run_end = t + 1; run_end < task_.num_tokens && seen(run_end) == range;) ++run_end;
      const auto [from, to] = range;
      if (from >= to) continue;
      const int64_t skip = from - begin;
      rows_.Visit({keys.data + skip * keys.stride, to - from, keys.stride},
                  {values.data + skip * values.stride, to - from, values.stride}, t * group_, run_end * group_,
                  [&, first_key = from](int64_t query_row, float* scores, int64_t num_keys) {
                    AddBias(query_row, first_key, scores, num_keys);
                  });
    }
  }

  // To the scores of a query of the task with keys [first_key, + num_keys).
  void AddBias(int64_t query_row, int64_t first_key, float* scores, int64_t num_keys) const {
    if (args_.bias.values == nullptr) return;
    const int64_t head = task_.kv_head * group_ + query_row % group_, position = Position(query_row / group_);
    for (int64_t j = 0; j < num_keys; ++j) scores[j] += args_.bias.At(head, first_key + j - position);
  }

  // Columns [col, + head_dim) of `size` cache rows, the first of which begins at element `row`: where they lie, or
  // widened into `wide`.
  Rows Part(int64_t row, int64_t col, int64_t size, float* wide) const {
    const CacheView& cache = args_.cache;
    const int64_t width = cache.first + cache.second;
    if (cache.dtype == DType::kF32) return {static_cast<const float*>(cache.data) + row + col, size, width};
    const WeightView block{.format = {.dtype = DType::kBF16},
                           .data = static_cast<const BF16*>(cache.data) + row,
                           .rows = size,
                           .cols = width};
    kernels_.widen(block, {0, size, col, dim_}, Compute::kF32, wide);
    return {wide, size, dim_};
  }

  const GroupedAttentionArgs& args_;
  const RowKernels& kernels_;
  const GroupedTask& task_;
  const int64_t group_, dim_;
  float *const keys_, *const values_;  // a block of the cache, widened
  SoftmaxRows rows_;
};

}  // namespace

void GroupedAttention(const GroupedAttentionArgs& args, CpuContext& context) {
  static thread_local std::vector<GroupedTask> planned;
  PlanGrouped(args, context.pool.num_threads(), planned);
  const RowKernels& kernels = RowKernelsFor(context.isa);
  const std::vector<GroupedTask>& tasks = planned;  // the caller's, not each worker's
  context.pool.ParallelFor(static_cast<int64_t>(tasks.size()),
                           [&](int64_t task, int) { GroupedWorker(args, kernels, tasks[task]).Run(); });
}

}  // namespace tokenferry::attention_cpu

#include <algorithm>
#include <vector>

#include "core/kernels/matmul_values.h"
#include "core/kernels/row_parallel.h"
#include "core/round_up.h"
#include "runtime/attention/attention_kernels.h"
#include "runtime/attention/softmax_rows.h"
#include "runtime/ops/row_kernels.h"

namespace tokenferry::attention_cpu {
namespace {

// Weight panels are widened once for this many tokens.
constexpr int64_t kTokensPerTask = 64;
constexpr int64_t kAbsorbCols = 64;  // columns of W_UK per panel
constexpr int64_t kExpandRows = 16;  // rows of W_UV per panel

// Rows of `x` as they enter a product: themselves in kF32, rounded into `scratch` in kBF16.
Rows ProductRows(Rows x, int64_t cols, Compute compute, float* scratch) {
  if (compute == Compute::kF32) return x;
  for (int64_t i = 0; i < x.num_rows; ++i) CopyRounded(x.data + i * x.stride, cols, compute, scratch + i * cols);
  return {scratch, x.num_rows, cols};
}

// Tokens [token_begin, + num_tokens), all of one sequence, times heads [head_begin, + num_heads).
struct AttentionTask {
  int64_t token_begin = 0, num_tokens = 0, head_begin = 0, num_heads = 0;
};

// Any cut gives the same results: every query is computed on its own, in order of its keys.
void PlanAttention(const LatentAttentionArgs& args, int num_threads, std::vector<AttentionTask>& tasks) {
  tasks.clear();
  const TokenPositions& tokens = args.tokens;
  int64_t queries = kQueriesPerTask;
  while (queries > 1 && tokens.num_tokens * args.heads < queries * num_threads) queries /= 2;
  const int64_t heads = std::min<int64_t>(args.heads, queries);
  const int64_t most_tokens = std::max<int64_t>(1, queries / heads);
  for (int64_t begin = 0, end = 0; begin < tokens.num_tokens; begin = end) {
    // Who sees some keys only is alone with them.
    for (end = begin + 1; end < tokens.num_tokens && end - begin < most_tokens; ++end) {
      if (tokens.seq[end] != tokens.seq[begin] || !args.SeesAll(begin) || !args.SeesAll(end)) break;
    }
    for (int64_t h = 0; h < args.heads; h += heads) {
      tasks.push_back({begin, end - begin, h, std::min(heads, args.heads - h)});
    }
  }
}

// The queries of one task, row (token, head), and their softmax so far.
class AttentionWorker {
 public:
  AttentionWorker(const LatentAttentionArgs& args, const RowKernels& kernels, const AttentionTask& task)
      : args_(args),
        kernels_(kernels),
        task_(task),
        latent_(args.cache.first),
        width_(latent_ + args.rope),
        keys_(ScratchFloats(kCacheBlockTokens * width_ + SoftmaxRows::NumFloats(num_rows(), width_, latent_))),
        rows_(kernels, num_rows(), width_, latent_, args.scale, keys_ + kCacheBlockTokens * width_) {}

  void Run() {
    int32_t last = -1;
    for (int64_t t = 0; t < task_.num_tokens; ++t) {
      last = std::max(last, Position(t));
      for (int64_t h = 0; h < task_.num_heads; ++h) LoadQuery(t, h);
    }
    if (args_.SeesAll(task_.token_begin)) {
      for (int64_t begin = 0; begin <= last; begin += kCacheBlockTokens) {
        VisitBlock(begin, std::min<int64_t>(kCacheBlockTokens, last + 1 - begin));
      }
    } else {
      VisitSelected();
    }
    for (int64_t t = 0; t < task_.num_tokens; ++t) {
      for (int64_t h = 0; h < task_.num_heads; ++h) rows_.Store(Row(t, h), args_.out + ArgsRow(t, h) * latent_);
    }
  }

 private:
  int32_t Position(int64_t t) const { return args_.tokens.position[task_.token_begin + t]; }
  int64_t num_rows() const { return task_.num_tokens * task_.num_heads; }
  int64_t Row(int64_t t, int64_t h) const { return t * task_.num_heads + h; }
  int64_t ArgsRow(int64_t t, int64_t h) const { return (task_.token_begin + t) * args_.heads + task_.head_begin + h; }

  void LoadQuery(int64_t t, int64_t h) {
    const int64_t row = ArgsRow(t, h);
    float* query = rows_.query(Row(t, h));
    CopyRounded(args_.q_latent + row * latent_, latent_, args_.compute, query);
    CopyRounded(args_.q + row * (args_.nope + args_.rope) + args_.nope, args_.rope, args_.compute, query + latent_);
  }

  // Keys [begin, begin + size) for all queries that see some of them.
  void VisitBlock(int64_t begin, int64_t size) {
    const Rows keys = Keys(begin, size);
    for (int64_t t = 0, end = 0; t < task_.num_tokens; t = end) {
      const int64_t visible = Visible(t, begin);
      for (end = t + 1; end < task_.num_tokens && Visible(end, begin) == visible;) ++end;
      const Rows seen{keys.data, visible, keys.stride};  // a value is the beginning of its key
      if (visible > 0) rows_.Visit(seen, seen, Row(t, 0), Row(end, 0));
    }
  }

  // The one token's keys, copied beside each other. It sees as many as are selected.
  void VisitSelected() {
    const int32_t* const selected = args_.selected + task_.token_begin * args_.num_selected;
    for (int64_t begin = 0; begin < args_.num_selected; begin += kCacheBlockTokens) {
      const int64_t size = std::min(kCacheBlockTokens, args_.num_selected - begin);
      for (int64_t j = 0; j < size; ++j) CopyKey(selected[begin + j], keys_ + j * width_);
      const Rows seen{keys_, size, width_};
      rows_.Visit(seen, seen, 0, task_.num_heads);
    }
  }

  void CopyKey(int64_t position, float* to) {
    const CacheView& cache = args_.cache;
    const int64_t at = CacheRow(cache, args_.tokens.seq[task_.token_begin], position);
    if (cache.dtype == DType::kF32) {
      std::copy_n(static_cast<const float*>(cache.data) + at, width_, to);
    } else {
      for (int64_t i = 0; i < width_; ++i) to[i] = ToFloat(static_cast<const BF16*>(cache.data)[at + i]);
    }
  }

  int64_t Visible(int64_t t, int64_t begin) const {
    return std::clamp<int64_t>(Position(t) + 1 - begin, 0, kCacheBlockTokens);
  }

  // The cache block in f32: where it lies, or widened once for all queries of the task.
  Rows Keys(int64_t begin, int64_t size) {
    const CacheView& cache = args_.cache;
    const int64_t first = CacheRow(cache, args_.tokens.seq[task_.token_begin], begin);
    if (cache.dtype == DType::kF32) return {static_cast<const float*>(cache.data) + first, size, width_};
    const WeightView block{.format = {.dtype = DType::kBF16},
                           .data = static_cast<const BF16*>(cache.data) + first,
                           .rows = 1,
                           .cols = size * width_};
    kernels_.widen(block, {0, 1, 0, size * width_}, Compute::kF32, keys_);
    return {keys_, size, width_};
  }

  const LatentAttentionArgs& args_;
  const RowKernels& kernels_;
  const AttentionTask& task_;
  const int64_t latent_, width_;
  float* const keys_;  // a block of the cache, widened
  SoftmaxRows rows_;
};

}  // namespace

void Rotate(const RopeArgs& args, CpuContext& context) {
  ParallelRows(context, args.tokens.num_tokens, args.heads * args.dim, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) RotateToken(args, t);
  });
}

void CacheWrite(const CacheWriteArgs& args, CpuContext& context) {
  ParallelRows(context, args.tokens.num_tokens, args.cache.first + args.cache.second, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) WriteToken(args, t);
  });
}

void AbsorbQuery(const AbsorbQueryArgs& args, CpuContext& context) {
  const RowKernels& kernels = RowKernelsFor(context.isa);
  const int64_t latent = args.kv_b.cols, panels = CeilDiv(latent, kAbsorbCols);
  const int64_t chunks = CeilDiv(args.num_tokens, kTokensPerTask);
  const int64_t q_stride = static_cast<int64_t>(args.heads) * (args.nope + args.rope), out_stride = args.heads * latent;
  context.pool.ParallelFor(chunks * args.heads * panels, [&](int64_t task, int) {
    const int64_t col = task % panels * kAbsorbCols, h = task / panels % args.heads;
    const int64_t begin = task / panels / args.heads * kTokensPerTask;
    const int64_t num_tokens = std::min(kTokensPerTask, args.num_tokens - begin);
    const int64_t cols = std::min(kAbsorbCols, latent - col);
    float* panel = ScratchFloats(args.nope * (kAbsorbCols + kTokensPerTask));
    kernels.widen(args.kv_b, {h * (args.nope + args.value), args.nope, col, cols}, args.compute, panel);
    const Rows q{args.q + begin * q_stride + h * (args.nope + args.rope), num_tokens, q_stride};
    float* out = args.out + begin * out_stride + h * latent + col;
    for (int64_t t = 0; t < num_tokens; ++t) std::fill_n(out + t * out_stride, cols, 0.0f);
    kernels.weighted_sum(ProductRows(q, args.nope, args.compute, panel + args.nope * kAbsorbCols),
                         {panel, args.nope, cols}, cols, nullptr, out, out_stride);
  });
}

void LatentAttention(const LatentAttentionArgs& args, CpuContext& context) {
  static thread_local std::vector<AttentionTask> planned;
  PlanAttention(args, context.pool.num_threads(), planned);
  const RowKernels& kernels = RowKernelsFor(context.isa);
  const std::vector<AttentionTask>& tasks = planned;  // the caller's, not each worker's
  context.pool.ParallelFor(static_cast<int64_t>(tasks.size()),
                           [&](int64_t task, int) { AttentionWorker(args, kernels, tasks[task]).Run(); });
}

void ExpandValue(const ExpandValueArgs& args, CpuContext& context) {
  const RowKernels& kernels = RowKernelsFor(context.isa);
  const int64_t latent = args.kv_b.cols, panels = CeilDiv(args.value, kExpandRows);
  const int64_t chunks = CeilDiv(args.num_tokens, kTokensPerTask);
  const int64_t u_stride = args.heads * latent, out_stride = static_cast<int64_t>(args.heads) * args.value;
  context.pool.ParallelFor(chunks * args.heads * panels, [&](int64_t task, int) {
    const int64_t v = task % panels * kExpandRows, h = task / panels % args.heads;
    const int64_t begin = task / panels / args.heads * kTokensPerTask;
    const int64_t num_tokens = std::min(kTokensPerTask, args.num_tokens - begin);
    const int64_t rows = std::min<int64_t>(kExpandRows, args.value - v);
    float* panel = ScratchFloats(latent * (kExpandRows + kTokensPerTask));
    const int64_t row = h * (args.nope + args.value) + args.nope + v;
    kernels.widen(args.kv_b, {row, rows, 0, latent}, args.compute, panel);
    const Rows u{args.u + begin * u_stride + h * latent, num_tokens, u_stride};
    kernels.dot(ProductRows(u, latent, args.compute, panel + latent * kExpandRows), {panel, rows, latent}, latent,
                args.out + begin * out_stride + h * args.value + v, out_stride);
  });
}

}  // namespace tokenferry::attention_cpu

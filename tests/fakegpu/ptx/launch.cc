#include "tests/fakegpu/ptx/launch.h"

#include <algorithm>
#include <list>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "tests/fakegpu/ptx/special_registers.h"
#include "tests/fakegpu/ptx/warp.h"

namespace tokenferry::fakegpu {
namespace {

struct Dimension {
  absl::string_view name;
  uint32_t (*value)(const Block& block, int thread);
};

constexpr Dimension kDimensions[] = {
    {"%tid.x", [](const Block& b, int t) { return t % b.launch.block[0]; }},
    {"%tid.y", [](const Block& b, int t) { return t / b.launch.block[0] % b.launch.block[1]; }},
    {"%tid.z", [](const Block& b, int t) { return t / b.launch.block[0] / b.launch.block[1]; }},
    {"%ntid.x", [](const Block& b, int) { return b.launch.block[0]; }},
    {"%ntid.y", [](const Block& b, int) { return b.launch.block[1]; }},
    {"%ntid.z", [](const Block& b, int) { return b.launch.block[2]; }},
    {"%ctaid.x", [](const Block& b, int) { return b.index[0]; }},
    {"%ctaid.y", [](const Block& b, int) { return b.index[1]; }},
    {"%ctaid.z", [](const Block& b, int) { return b.index[2]; }},
    {"%nctaid.x", [](const Block& b, int) { return b.launch.grid[0]; }},
    {"%nctaid.y", [](const Block& b, int) { return b.launch.grid[1]; }},
    {"%nctaid.z", [](const Block& b, int) { return b.launch.grid[2]; }},
    {"%laneid", [](const Block&, int t) { return static_cast<uint32_t>(t % kLanes); }},
    {"%lanemask_lt", [](const Block&, int t) { return (1u << t % kLanes) - 1; }},
    {"%lanemask_eq", [](const Block&, int t) { return 1u << t % kLanes; }},
    {"WARP_SZ", [](const Block&, int) { return uint32_t{kLanes}; }},
};

// Lets every resident block go on for a while, in random order; true if any did.
bool RunTurn(std::list<Block>& resident, std::mt19937& rng, int64_t& num_done) {
  bool any = false;
  for (Block& block : resident) {
    const size_t num_warps = block.warps.size();
    for (size_t i = 0; i < num_warps; ++i) {
      const int done = block.warps[rng() % num_warps].Run(1 + static_cast<int>(rng() % 64));
      num_done += done;
      any |= done > 0;
    }
  }
  return any;
}

// True if all threads of the block were at the barrier, and now are behind it.
bool PassBarrier(Block& block) {
  if (block.num_exited > 0) return false;
  for (const Warp& warp : block.warps) {
    if (!warp.at_barrier()) return false;
  }
  ++block.epoch;
  for (Warp& warp : block.warps) warp.LeaveBarrier();
  return true;
}

bool AnyWarpRuns(std::list<Block>& resident, int64_t& num_done) {
  for (Block& block : resident) {
    for (Warp& warp : block.warps) {
      if (const int done = warp.Run(64)) return num_done += done, true;
    }
  }
  return false;
}

[[noreturn]] void FailStuck(const std::list<Block>& resident) {
  const Block& block = resident.front();
  std::string waiting;
  for (const Warp& warp : block.warps) {
    if (!warp.done()) absl::StrAppend(&waiting, waiting.empty() ? "" : "; ", warp.Waiting());
  }
  throw KernelFault(absl::StrCat("kernel ", block.launch.kernel->name, ", block (", block.index[0], ", ",
                                 block.index[1], ", ", block.index[2], "): divergent barrier: nobody can go on; ",
                                 block.num_exited, " threads have ended; ", waiting));
}

}  // namespace

bool IsSpecialRegister(absl::string_view name) {
  return std::any_of(std::begin(kDimensions), std::end(kDimensions),
                     [&](const Dimension& d) { return d.name == name; });
}

uint64_t SpecialRegister(absl::string_view name, const Block& block, int thread) {
  for (const Dimension& d : kDimensions) {
    if (d.name == name) return d.value(block, thread);
  }
  return 0;
}

Block::Block(LaunchContext& launch, uint32_t i)
    : launch(launch),
      index{i % launch.grid[0], i / launch.grid[0] % launch.grid[1], i / launch.grid[0] / launch.grid[1]},
      shared(launch.kernel->shared_bytes + launch.dynamic_shared_bytes) {
  const int num_threads = static_cast<int>(launch.block[0] * launch.block[1] * launch.block[2]);
  for (int first = 0; first < num_threads; first += kLanes) warps.emplace_back(*this, first, num_threads - first);
}

struct KernelRun::State {
  LaunchContext context;
  std::vector<uint32_t> order;  // of blocks
  size_t next = 0;              // in it
  std::list<Block> resident;
};

KernelRun::KernelRun(Kernel& kernel, const KernelLaunch& launch, GlobalMemory& memory)
    : num_resident_blocks_(launch.num_resident_blocks),
      max_warp_instructions_(launch.max_warp_instructions),
      state_(std::make_unique<State>()) {
  Decode(kernel);
  LaunchContext& context = state_->context;
  context.kernel = &kernel;
  context.dynamic_shared_bytes = launch.dynamic_shared_bytes;
  context.params = launch.params;
  context.memory = &memory;
  std::copy_n(launch.grid, 3, context.grid);
  std::copy_n(launch.block, 3, context.block);
  context.rng.seed(launch.seed);
  for (uint64_t constant : kernel.constants) {
    Register& r = context.constants.emplace_back();
    std::fill_n(r.lane, kLanes, constant);
    r.defined = ~0u;
  }
  state_->order.resize(size_t{launch.grid[0]} * launch.grid[1] * launch.grid[2]);
  std::iota(state_->order.begin(), state_->order.end(), 0);
  std::shuffle(state_->order.begin(), state_->order.end(), context.rng);
}

KernelRun::~KernelRun() = default;

Progress KernelRun::Advance() {
  auto& [context, order, next, resident] = *state_;
  context.last_range = {};  // whoever was let in may have freed memory
  context.sleeps = false;
  while (next < order.size() || !resident.empty()) {
    if (context.sleeps) return Progress::kWaits;
    while (next < order.size() && resident.size() < static_cast<size_t>(num_resident_blocks_))
      resident.emplace_back(context, order[next++]);
    bool any = RunTurn(resident, context.rng, counts_.warp_instructions);
    for (auto block = resident.begin(); block != resident.end();) {
      any |= PassBarrier(*block);
      const bool done = std::all_of(block->warps.begin(), block->warps.end(), [](const Warp& w) { return w.done(); });
      any |= done;
      block = done ? resident.erase(block) : std::next(block);
    }
    if (!any && !AnyWarpRuns(resident, counts_.warp_instructions)) FailStuck(resident);
    if (counts_.warp_instructions > max_warp_instructions_) {
      throw KernelFault(absl::StrCat("kernel ", context.kernel->name, " does not end: ", counts_.warp_instructions,
                                     " instructions of warps"));
    }
  }
  return Progress::kEnded;
}

LaunchCounts RunKernel(Kernel& kernel, const KernelLaunch& launch, GlobalMemory& memory) {
  KernelRun run(kernel, launch, memory);
  while (run.Advance() == Progress::kWaits) {
  }
  return run.counts();
}

}  // namespace tokenferry::fakegpu

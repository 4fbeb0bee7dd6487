#include "tests/fakegpu/ptx/warp.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tests/fakegpu/ptx/launch.h"
#include "tests/fakegpu/ptx/special_registers.h"

namespace tokenferry::fakegpu {

Warp::Warp(Block& block, int first_thread, int num_threads)
    : block_(block),
      first_thread_(first_thread),
      alive_(num_threads >= kLanes ? ~0u : (1u << num_threads) - 1),
      registers_(new Register[block.launch.kernel->register_bytes.size()]),
      local_(static_cast<size_t>(block.launch.kernel->local_bytes) * kLanes, static_cast<char>(0xCB)) {
  parts_.push_back({0, alive_});
  for (const auto& [name, index] : block.launch.kernel->special_registers) {
    Register& r = registers_[index];
    r.defined = ~0u;
    for (int l = 0; l < kLanes; ++l) r.lane[l] = SpecialRegister(name, block, first_thread + l);
  }
}

const Register& Warp::Use(int index, uint32_t mask) {
  const Register& r = Peek(index);
  if (const uint32_t missing = mask & ~r.defined; missing != 0) {
    lane = std::countr_zero(missing);
    throw AccessError("use of a register that has no value");
  }
  return r;
}

void Warp::Fail(const std::string& what, int line) const {
  const Kernel& kernel = *block_.launch.kernel;
  const int thread = first_thread_ + lane;
  std::string instruction;
  for (const Statement& s : kernel.statements) {
    if (s.line == line) instruction = ToString(s);
  }
  throw KernelFault(absl::StrFormat("kernel %s, block (%d, %d, %d), thread %d: %s; PTX line %d: %s", kernel.name,
                                    block_.index[0], block_.index[1], block_.index[2], thread, what, line,
                                    instruction));
}

uint32_t Warp::Guarded(const Instruction& in, uint32_t mask) {
  if (in.guard < 0) return mask;
  const Register& p = Use(in.guard, mask);
  uint32_t on = 0;
  for (int l = 0; l < kLanes; ++l) on |= static_cast<uint32_t>(p.lane[l] != 0) << l;
  return mask & (in.guard_negated ? ~on : on);
}

int Warp::Choose() {
  int chosen = -1, num_running = 0;
  for (int i = 0; i < static_cast<int>(parts_.size()); ++i) {
    if (parts_[i].state != State::kRunning) continue;
    ++num_running;
    const bool better =
        any_order_ ? block_.launch.rng() % num_running == 0 : chosen < 0 || parts_[i].pc < parts_[chosen].pc;
    if (better) chosen = i;
  }
  return chosen;
}

// The part after it has become one with whoever is at the same instruction.
int Warp::MergeAt(int part) {
  for (int i = 0; i < static_cast<int>(parts_.size()); ++i) {
    if (i == part || parts_[i].pc != parts_[part].pc) continue;
    parts_[i].mask |= parts_[part].mask;
    parts_[i].state = State::kRunning;
    parts_.erase(parts_.begin() + part);
    return i > part ? i - 1 : i;
  }
  return part;
}

// Lanes of the part that are not in `mask` go on behind its instruction, as a part of their own.
int Warp::SplitOff(int part, uint32_t mask) {
  if (mask == parts_[part].mask) return part;
  parts_.push_back({parts_[part].pc + 1, parts_[part].mask & ~mask});
  parts_[part].mask = mask;
  const int pc = parts_[part].pc;
  MergeAt(static_cast<int>(parts_.size()) - 1);
  for (int i = 0; i < static_cast<int>(parts_.size()); ++i) {
    if (parts_[i].pc == pc) return i;
  }
  return -1;
}

int Warp::Branch(const Instruction& in, int part, uint32_t taken) {
  const uint32_t stay = parts_[part].mask & ~taken;
  if (stay == 0) {
    parts_[part].pc = in.target;
    return MergeAt(part);
  }
  if (taken == 0) {
    ++parts_[part].pc;
    return MergeAt(part);
  }
  const int behind = parts_[part].pc + 1;
  parts_[part] = {in.target, taken};
  MergeAt(part);
  parts_.push_back({behind, stay});
  MergeAt(static_cast<int>(parts_.size()) - 1);
  return -1;
}

int Warp::Exit(int part, uint32_t mask) {
  for (int l = 0; l < kLanes; ++l) {
    if ((mask >> l & 1) == 0 || async_copies_.empty()) continue;
    lane = l;
    if (!async_copies_[l].open.empty() || !async_copies_[l].groups.empty())
      throw AccessError("exit before the wait for its cp.async");
  }
  alive_ &= ~mask;
  block_.num_exited += std::popcount(mask);
  parts_[part].mask &= ~mask;
  // Whoever waits for lanes that are gone has to notice.
  for (Part& other : parts_) {
    if (other.state == State::kWarpSync) other.state = State::kRunning;
  }
  if (parts_[part].mask == 0) {
    parts_.erase(parts_.begin() + part);
    return -1;
  }
  ++parts_[part].pc;
  return MergeAt(part);
}

int Warp::BlockBarrier(const Instruction&, int part, uint32_t mask) {
  part = SplitOff(part, mask);
  // The whole warp has to be here: bar.sync is aligned.
  parts_[part].state = State::kBlockBarrier;
  return -1;
}

void Warp::LeaveBarrier() {
  parts_[0].state = State::kRunning;
  ++parts_[0].pc;
}

int Warp::WarpSync(const Instruction& in, int part, uint32_t mask) {
  part = SplitOff(part, mask);
  // Groups of lanes with the same member mask act together; the instruction is done when all of them are here.
  const Register& members = Use(in.sources[in.member_mask], mask);
  for (uint32_t rest = mask; rest != 0;) {
    lane = std::countr_zero(rest);
    const auto group = static_cast<uint32_t>(members.lane[lane]);
    if ((group >> lane & 1) == 0)
      throw AccessError(absl::StrFormat("executed by a lane that its member mask 0x%x does not name", group));
    if (const uint32_t exited = group & ~alive_)
      throw AccessError(absl::StrFormat("member mask 0x%x names lanes that have ended: 0x%x", group, exited));
    for (int l = 0; l < kLanes; ++l) {
      if ((group & rest) >> l & 1 && static_cast<uint32_t>(members.lane[l]) != group)
        throw AccessError("lanes of one warp name different member masks");
    }
    if ((group & ~mask) != 0) {
      parts_[part].state = State::kWarpSync;
      return -1;
    }
    rest &= ~group;
  }
  for (uint32_t rest = mask; rest != 0;) {
    const auto group = static_cast<uint32_t>(members.lane[std::countr_zero(rest)]);
    rest &= ~group;
    in.run(*this, in, group);
  }
  ++parts_[part].pc;
  return MergeAt(part);
}

int Warp::Run(int budget) {
  const Instruction* code = block_.launch.kernel->code.data();
  any_order_ = block_.launch.rng() % 8 == 0;
  int part = Choose(), num_done = 0;
  const Instruction* in = nullptr;
  try {
    while (part >= 0 && num_done < budget) {
      in = &code[parts_[part].pc];
      ++num_done;
      lane = std::countr_zero(parts_[part].mask);
      const uint32_t mask = Guarded(*in, parts_[part].mask);
      if (in->flow == Flow::kBranch) {
        part = Branch(*in, part, mask);
      } else if (mask == 0) {
        ++parts_[part].pc;
        if (parts_.size() > 1) part = MergeAt(part);
      } else if (in->flow == Flow::kNext) {
        in->run(*this, *in, mask);
        ++parts_[part].pc;
        if (parts_.size() > 1) part = MergeAt(part);
      } else if (in->flow == Flow::kWarpSync) {
        part = WarpSync(*in, part, mask);
      } else if (in->flow == Flow::kBlockBarrier) {
        part = BlockBarrier(*in, part, mask);
      } else {
        part = Exit(part, mask);
      }
      if (part < 0 || (parts_.size() > 1 && !any_order_)) part = Choose();
    }
  } catch (const AccessError& error) {
    Fail(error.what(), in->line);
  }
  return num_done;
}

std::string Warp::Waiting() const {
  std::string out;
  for (const Part& part : parts_) {
    absl::StrAppend(&out, out.empty() ? "" : ", ", "lanes ", absl::Hex(part.mask),
                    part.state == State::kWarpSync ? " at a warp's" : " at a block's", " barrier of line ",
                    block_.launch.kernel->code[part.pc].line);
  }
  return absl::StrCat("threads from ", first_thread_, ": ", out);
}

char* Warp::GlobalOf(uint64_t address, int size) {
  MemoryRange& range = block_.launch.last_range;
  if (address < range.begin || address + size > range.end) {
    const MemoryRange found = block_.launch.memory->Find(address);
    if (found.end == found.begin || address + size > found.end) {
      throw AccessError(absl::StrFormat("global memory out of bounds: %d bytes at 0x%x (%s)", size, address,
                                        block_.launch.memory->Describe(address)));
    }
    range = found;
  }
  return range.host + (address - range.begin);
}

char* Warp::Memory(Space space, uint64_t address, int size, int l, Access access) {
  lane = l;
  if ((address & (size - 1)) != 0) throw AccessError(absl::StrFormat("misaligned: %d bytes at 0x%x", size, address));
  if (space == Space::kGeneric) {
    if (address - kSharedWindow < kWindowBytes) {
      space = Space::kShared;
      address -= kSharedWindow;
    } else if (address - kLocalWindow < kWindowBytes) {
      space = Space::kLocal;
      address -= kLocalWindow;
    }
  }
  if (space == Space::kShared) {
    const int64_t offset = static_cast<int64_t>(address) - kSharedBase;
    SharedMemory& shared = block_.shared;
    if (access == Access::kLoad) return const_cast<char*>(shared.Load(accessor(l), offset, size));
    return access == Access::kStore ? shared.Store(accessor(l), offset, size)
                                    : shared.Atomic(accessor(l), offset, size);
  }
  if (space == Space::kLocal) {
    const auto bytes = static_cast<uint64_t>(block_.launch.kernel->local_bytes);
    if (address + size > bytes)
      throw AccessError(absl::StrCat("local memory out of bounds: ", size, " bytes at ", address, " of ", bytes));
    return &local_[l * bytes + address];
  }
  if (space == Space::kParam) {
    std::vector<char>& params = block_.launch.params;
    if (access != Access::kLoad || address + size > params.size())
      throw AccessError(absl::StrCat("parameter out of bounds: ", size, " bytes at ", address));
    return &params[address];
  }
  return GlobalOf(address, size);
}

}  // namespace tokenferry::fakegpu

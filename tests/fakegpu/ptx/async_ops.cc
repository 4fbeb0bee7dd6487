#include <cstring>

#include "tests/fakegpu/ptx/lanes.h"
#include "tests/fakegpu/ptx/opcode.h"

namespace tokenferry::fakegpu {
namespace {

Warp::LaneCopies& CopiesOf(Warp& w, int lane) {
  if (w.async_copies().empty()) w.async_copies().resize(kLanes);
  return w.async_copies()[lane];
}

// sources: address in shared memory, address in global memory, how many bytes to read (the rest is zeros). The bytes
// arrive at the wait, as late as they may.
void CopyAsync(Warp& w, const Instruction& in, uint32_t mask) {
  const Register &to = w.Use(in.sources[0], mask), &from = w.Use(in.sources[1], mask);
  const Register* given = in.num_sources > 2 ? &w.Use(in.sources[2], mask) : nullptr;
  ForLanes(mask, [&](int l) {
    w.lane = l;
    const int wanted = given != nullptr ? static_cast<int>(static_cast<uint32_t>(given->lane[l])) : in.bytes;
    if (wanted < 0 || wanted > in.bytes) throw AccessError("cp.async reads more than it writes");
    if (from.lane[l] % in.bytes != 0) throw AccessError("misaligned source of cp.async");
    if (wanted > 0) w.Memory(Space::kGlobal, from.lane[l], in.bytes, l, Warp::Access::kLoad);
    const int64_t offset = static_cast<int64_t>(to.lane[l]) - kSharedBase;
    w.block().shared.BeginAsyncStore(w.accessor(l), offset, in.bytes);
    CopiesOf(w, l).open.push_back({static_cast<uint64_t>(offset), from.lane[l], in.bytes, wanted});
  });
}

void CommitGroup(Warp& w, const Instruction&, uint32_t mask) {
  ForLanes(mask, [&](int l) {
    Warp::LaneCopies& copies = CopiesOf(w, l);
    copies.groups.push_back(std::move(copies.open));
    copies.open.clear();
  });
}

void Arrive(Warp& w, int l, const Warp::AsyncCopy& copy) {
  char bytes[16] = {};
  if (copy.bytes_from_global > 0)
    std::memcpy(bytes, w.Memory(Space::kGlobal, copy.global_address, copy.size, l, Warp::Access::kLoad),
                copy.bytes_from_global);
  w.block().shared.StoreArrived(w.accessor(l), static_cast<int64_t>(copy.shared_offset), copy.size, bytes);
}

// All but the last `sources[0]` groups.
void WaitGroup(Warp& w, const Instruction& in, uint32_t mask) {
  const Register& pending = w.Use(in.sources[0], mask);
  ForLanes(mask, [&](int l) {
    Warp::LaneCopies& copies = CopiesOf(w, l);
    while (copies.groups.size() > pending.lane[l]) {
      for (const Warp::AsyncCopy& copy : copies.groups.front()) Arrive(w, l, copy);
      copies.groups.pop_front();
    }
  });
}

void WaitAll(Warp& w, const Instruction&, uint32_t mask) {
  ForLanes(mask, [&](int l) {
    Warp::LaneCopies& copies = CopiesOf(w, l);
    for (const auto& group : copies.groups) {
      for (const Warp::AsyncCopy& copy : group) Arrive(w, l, copy);
    }
    for (const Warp::AsyncCopy& copy : copies.open) Arrive(w, l, copy);
    copies = {};
  });
}

// in.num_dsts matrices of 8 rows of 16 bytes; lane 8 m + r has the address of row r of matrix m. `in_order` is .trans.
void LoadMatrix(Warp& w, const Instruction& in, uint32_t) {
  const uint32_t lanes_read = in.num_dsts == 4 ? ~0u : (1u << 8 * in.num_dsts) - 1;
  const Register& address = w.Use(in.sources[0], lanes_read);
  uint16_t values[kLanes][8];
  ForLanes(lanes_read, [&](int l) {
    std::memcpy(
        values[l],
        w.Memory(Space::kShared, address.lane[l] + static_cast<uint64_t>(in.offset), 16, l, Warp::Access::kLoad), 16);
  });
  for (int m = 0; m < in.num_dsts; ++m) {
    Register& d = w.Define(in.dsts[m], ~0u);
    for (int l = 0; l < kLanes; ++l) {
      const int row = l / 4, col = l % 4 * 2;
      const uint32_t low = in.in_order ? values[8 * m + col][row] : values[8 * m + row][col];
      const uint32_t high = in.in_order ? values[8 * m + col + 1][row] : values[8 * m + row][col + 1];
      d.lane[l] = low | high << 16;
    }
  }
}

}  // namespace

bool DecodeAsync(Opcode& op, Instruction& in) {
  if (op.name() == "ldmatrix") {
    if (!op.TakeFirst("sync") || !op.TakeFirst("aligned") || !op.TakeFirst("m8n8")) op.Refuse("shape");
    const int count = op.TakeFirst("x1") ? 1 : op.TakeFirst("x2") ? 2 : op.TakeFirst("x4") ? 4 : 0;
    in.in_order = op.TakeFirst("trans");
    if (!op.TakeFirst("shared") || op.TakeType() != Type::kB16) op.Refuse("type");
    op.Dst(in, 0);
    op.Address(in, 1);
    if (in.num_dsts != count) op.Refuse("number of matrices");
    op.WholeWarp(in);
    in.run = &LoadMatrix;
    return true;
  }
  if (op.name() != "cp" || !op.TakeFirst("async")) return false;
  if (op.TakeFirst("commit_group")) {
    in.run = &CommitGroup;
  } else if (op.TakeFirst("wait_all")) {
    in.run = &WaitAll;
  } else if (op.TakeFirst("wait_group")) {
    op.Source(in, 0);
    in.run = &WaitGroup;
  } else {
    const bool past_l1 = op.TakeFirst("cg");
    if (!past_l1 && !op.TakeFirst("ca")) op.Refuse("cp.async");
    if (!op.TakeFirst("shared") || !op.TakeFirst("global")) op.Refuse("address spaces");
    for (const char* hint : {"L2::64B", "L2::128B", "L2::256B"}) op.Take(hint);
    op.Address(in, 0);
    const int64_t to_offset = in.offset;
    in.offset = 0;
    op.Address(in, 1);
    if (to_offset != 0 || in.offset != 0) op.Refuse("an offset of an address of cp.async");
    const std::string& bytes = op.operand(2);
    in.bytes = bytes == "16" ? 16 : bytes == "8" ? 8 : bytes == "4" ? 4 : 0;
    if (in.bytes == 0 || (past_l1 && in.bytes != 16)) op.Refuse("size");
    if (op.num_operands() == 4) op.Source(in, 3);
    if (op.num_operands() > 4) op.Refuse("number of operands");
    in.run = &CopyAsync;
  }
  return true;
}

}  // namespace tokenferry::fakegpu

#include "tests/fakegpu/ptx/lanes.h"
#include "tests/fakegpu/ptx/opcode.h"

namespace tokenferry::fakegpu {
namespace {

// PTX ISA, shfl.sync: which lane `lane` reads; *inside says whether it lies in the segment, else the lane reads itself.
enum class Shuffle { kUp, kDown, kBfly, kIdx };
template <Shuffle kMode>
int SourceLane(int lane, uint32_t b, uint32_t c, bool* inside) {
  const int segment = static_cast<int>(c >> 8 & 31), clamp = static_cast<int>(c & 31),
            amount = static_cast<int>(b & 31);
  const int max_lane = (lane & segment) | (clamp & ~segment), min_lane = lane & segment;
  int from = 0;
  if (kMode == Shuffle::kUp) from = lane - amount;
  if (kMode == Shuffle::kDown) from = lane + amount;
  if (kMode == Shuffle::kBfly) from = lane ^ amount;
  if (kMode == Shuffle::kIdx) from = min_lane | (amount & ~segment);
  *inside = kMode == Shuffle::kUp ? from >= max_lane : from <= max_lane;
  return *inside ? from : lane;
}

// What a lane outside the member mask holds is no value.
template <Shuffle kMode>
void ShuffleLanes(Warp& w, const Instruction& in, uint32_t mask) {
  const Register a = w.Peek(in.sources[0]);
  const Register &b = w.Use(in.sources[1], mask), &c = w.Use(in.sources[2], mask);
  uint32_t inside_mask = 0, defined = 0;
  uint64_t out[kLanes];
  ForLanes(mask, [&](int l) {
    bool inside = false;
    const int from = SourceLane<kMode>(l, static_cast<uint32_t>(b.lane[l]), static_cast<uint32_t>(c.lane[l]), &inside);
    inside_mask |= static_cast<uint32_t>(inside) << l;
    out[l] = a.lane[from & (kLanes - 1)] & 0xFFFFFFFF;
    defined |= (mask & a.defined) >> from & 1 ? 1u << l : 0;
  });
  if (in.dsts[0] >= 0) {
    Register& d = w.Define(in.dsts[0], mask);
    d.defined &= ~mask | defined;
    ForLanes(mask, [&](int l) { d.lane[l] = out[l]; });
  }
  if (in.num_dsts > 1 && in.dsts[1] >= 0) {
    Register& p = w.Define(in.dsts[1], mask);
    ForLanes(mask, [&](int l) { p.lane[l] = inside_mask >> l & 1; });
  }
}

enum class Vote { kAll, kAny, kUni, kBallot };
template <Vote kKind>
void VoteLanes(Warp& w, const Instruction& in, uint32_t mask) {
  const Register& a = w.Use(in.sources[0], mask);
  uint32_t ballot = 0;
  ForLanes(mask, [&](int l) { ballot |= static_cast<uint32_t>(a.lane[l] != 0) << l; });
  uint64_t value = ballot;
  if (kKind == Vote::kAll) value = ballot == mask;
  if (kKind == Vote::kAny) value = ballot != 0;
  if (kKind == Vote::kUni) value = ballot == mask || ballot == 0;
  Register& d = w.Define(in.dsts[0], mask);
  ForLanes(mask, [&](int l) { d.lane[l] = value; });
}

constexpr auto kAdd = [](auto a, auto b) {
  return static_cast<decltype(a)>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
};
constexpr auto kMin = [](auto a, auto b) { return a < b ? a : b; };
constexpr auto kMax = [](auto a, auto b) { return a > b ? a : b; };
constexpr auto kAnd = [](auto a, auto b) { return a & b; };
constexpr auto kOr = [](auto a, auto b) { return a | b; };
constexpr auto kXor = [](auto a, auto b) { return a ^ b; };
template <class T, auto Fn>
void Reduce(Warp& w, const Instruction& in, uint32_t mask) {
  const Register& a = w.Use(in.sources[0], mask);
  T value = As<T>(a.lane[std::countr_zero(mask) & (kLanes - 1)]);
  ForLanes(mask & (mask - 1), [&](int l) { value = Fn(value, As<T>(a.lane[l])); });
  Register& d = w.Define(in.dsts[0], mask);
  ForLanes(mask, [&](int l) { d.lane[l] = Bits(value); });
}

void MatchAny(Warp& w, const Instruction& in, uint32_t mask) {
  const Register a = w.Use(in.sources[0], mask);
  Register& d = w.Define(in.dsts[0], mask);
  ForLanes(mask, [&](int l) {
    uint32_t same = 0;
    ForLanes(mask, [&](int k) {
      same |= static_cast<uint32_t>(Bits(static_cast<uint32_t>(a.lane[k])) == Bits(static_cast<uint32_t>(a.lane[l])))
              << k;
    });
    d.lane[l] = same;
  });
}

Handler ShuffleHandler(const std::string& mode) {
  if (mode == "up") return &ShuffleLanes<Shuffle::kUp>;
  if (mode == "down") return &ShuffleLanes<Shuffle::kDown>;
  if (mode == "bfly") return &ShuffleLanes<Shuffle::kBfly>;
  if (mode == "idx") return &ShuffleLanes<Shuffle::kIdx>;
  return nullptr;
}

Handler VoteHandler(const std::string& mode) {
  if (mode == "all") return &VoteLanes<Vote::kAll>;
  if (mode == "any") return &VoteLanes<Vote::kAny>;
  if (mode == "uni") return &VoteLanes<Vote::kUni>;
  if (mode == "ballot") return &VoteLanes<Vote::kBallot>;
  return nullptr;
}

Handler ReduceHandler(const std::string& what, Type type) {
  const bool is_signed = type == Type::kS32;
  if (what == "add") return &Reduce<uint32_t, kAdd>;
  if (what == "min") return is_signed ? Handler(&Reduce<int32_t, kMin>) : Handler(&Reduce<uint32_t, kMin>);
  if (what == "max") return is_signed ? Handler(&Reduce<int32_t, kMax>) : Handler(&Reduce<uint32_t, kMax>);
  if (what == "and") return &Reduce<uint32_t, kAnd>;
  if (what == "or") return &Reduce<uint32_t, kOr>;
  if (what == "xor") return &Reduce<uint32_t, kXor>;
  return nullptr;
}

}  // namespace

bool DecodeWarp(Opcode& op, Instruction& in) {
  const std::string& name = op.name();
  if (name == "bar" || name == "barrier") {
    if (op.TakeFirst("warp")) {
      if (!op.TakeFirst("sync")) op.Refuse("barrier");
      in.flow = Flow::kWarpSync;
      op.Source(in, 0);
      in.run = [](Warp& w, const Instruction&, uint32_t) { w.PassWarpBarrier(); };
      return true;
    }
    op.Take("cta");
    if (!op.TakeFirst("sync") || (name == "barrier" && !op.TakeFirst("aligned"))) op.Refuse("barrier");
    if (op.num_operands() != 1 || op.operand(0) != "0") op.Refuse("only barrier 0 of all threads");
    in.flow = Flow::kBlockBarrier;
    return true;
  }
  if (name == "activemask") {
    op.TakeType();
    op.Dst(in, 0);
    in.run = [](Warp& w, const Instruction& i, uint32_t mask) {
      Register& d = w.Define(i.dsts[0], mask);
      ForLanes(mask, [&](int l) { d.lane[l] = mask; });
    };
    return true;
  }
  if (name == "nanosleep") {
    op.TakeType();
    in.run = [](Warp& w, const Instruction&, uint32_t) { w.block().launch.sleeps = true; };
    return true;
  }
  if (name != "shfl" && name != "vote" && name != "redux" && name != "match") return false;
  const bool any = name == "match" && op.TakeFirst("any");  // the mode of match comes first
  if (!op.TakeFirst("sync")) op.Refuse("without a member mask");
  in.flow = Flow::kWarpSync;
  const std::string mode = any ? "any" : op.TakeNext();
  const Type type = op.TakeType();
  int first = 1;
  op.Dst(in, 0);
  if (name == "shfl") {
    if (type != Type::kB32) op.Refuse("type");
    if (op.num_operands() == 6) op.Dst(in, first++);
    in.run = ShuffleHandler(mode);
  } else if (name == "vote") {
    in.run = VoteHandler(mode);
  } else if (name == "redux") {
    in.run = ReduceHandler(mode, type);
  } else if (any && type == Type::kB32) {
    in.run = &MatchAny;
  }
  for (int i = first; i < op.num_operands(); ++i) op.Source(in, i);
  in.member_mask = static_cast<uint8_t>(in.num_sources - 1);
  return true;
}

}  // namespace tokenferry::fakegpu

#include <chrono>

#include "tests/fakegpu/ptx/lanes.h"
#include "tests/fakegpu/ptx/opcode.h"

namespace tokenferry::fakegpu {
namespace {

uint64_t Low(uint64_t value, int bytes) { return bytes == 8 ? value : value & ((uint64_t{1} << 8 * bytes) - 1); }

// A move passes on that a lane has no value.
void Move(Warp& w, const Instruction& in, uint32_t mask) {
  const Register a = w.Peek(in.sources[0]);
  Register& d = w.Define(in.dsts[0], mask);
  d.defined &= ~mask | a.defined;
  ForLanes(mask, [&](int l) { d.lane[l] = Low(a.lane[l], in.bytes); });
}

void MovePredicate(Warp& w, const Instruction& in, uint32_t mask) {
  const Register& a = w.Use(in.sources[0], mask);
  Register& d = w.Define(in.dsts[0], mask);
  ForLanes(mask, [&](int l) { d.lane[l] = a.lane[l] != 0; });
}

// %globaltimer: nanoseconds of one clock for all devices and processes of the host.
void ReadClock(Warp& w, const Instruction& in, uint32_t mask) {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  const uint64_t nanos = std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
  Register& d = w.Define(in.dsts[0], mask);
  ForLanes(mask, [&](int l) { d.lane[l] = nanos; });
}

// mov.b64 %rd, {%r, %r} and its like
void Pack(Warp& w, const Instruction& in, uint32_t mask) {
  uint64_t out[kLanes] = {};
  const int part = in.bytes / in.num_sources;
  uint32_t defined = ~0u;
  for (int i = 0; i < in.num_sources; ++i) {
    const Register& a = w.Peek(in.sources[i]);
    defined &= a.defined;
    ForLanes(mask, [&](int l) { out[l] |= Low(a.lane[l], part) << (8 * part * i); });
  }
  Register& d = w.Define(in.dsts[0], mask);
  d.defined &= ~mask | defined;
  ForLanes(mask, [&](int l) { d.lane[l] = out[l]; });
}

void Unpack(Warp& w, const Instruction& in, uint32_t mask) {
  const Register a = w.Peek(in.sources[0]);
  const int part = in.bytes / in.num_dsts;
  for (int i = 0; i < in.num_dsts; ++i) {
    if (in.dsts[i] < 0) continue;
    Register& d = w.Define(in.dsts[i], mask);
    d.defined &= ~mask | a.defined;
    ForLanes(mask, [&](int l) { d.lane[l] = Low(a.lane[l] >> (8 * part * i), part); });
  }
}

void Select(Warp& w, const Instruction& in, uint32_t mask) {
  const Register a = w.Peek(in.sources[0]), b = w.Peek(in.sources[1]);
  const Register& p = w.Use(in.sources[2], mask);
  Register& d = w.Define(in.dsts[0], mask);
  ForLanes(mask, [&](int l) {
    const Register& from = p.lane[l] != 0 ? a : b;
    d.lane[l] = Low(from.lane[l], in.bytes);
    if ((from.defined >> l & 1) == 0) d.defined &= ~(1u << l);
  });
}

constexpr auto kEq = [](auto a, auto b) { return a == b; };
constexpr auto kNe = [](auto a, auto b) { return a != b && a == a && b == b; };
constexpr auto kLt = [](auto a, auto b) { return a < b; };
constexpr auto kLe = [](auto a, auto b) { return a <= b; };
constexpr auto kGt = [](auto a, auto b) { return a > b; };
constexpr auto kGe = [](auto a, auto b) { return a >= b; };
template <auto Fn>
constexpr auto kOrNaN = [](auto a, auto b) { return a != a || b != b || Fn(a, b); };
constexpr auto kNum = [](auto a, auto b) { return a == a && b == b; };
constexpr auto kNan = [](auto a, auto b) { return a != a || b != b; };

Handler IntegerComparison(const std::string& name, Type type) {
  if (name == "eq") return HandlerFor<2, kEq>(type, Integers{});
  if (name == "ne") return HandlerFor<2, kNe>(type, Integers{});
  if (name == "lt" || name == "lo") return HandlerFor<2, kLt>(type, Integers{});
  if (name == "le" || name == "ls") return HandlerFor<2, kLe>(type, Integers{});
  if (name == "gt" || name == "hi") return HandlerFor<2, kGt>(type, Integers{});
  if (name == "ge" || name == "hs") return HandlerFor<2, kGe>(type, Integers{});
  return nullptr;
}

Handler FloatComparison(const std::string& name, Type type) {
  if (name == "eq") return HandlerFor<2, kEq>(type, Floats{});
  if (name == "ne") return HandlerFor<2, kNe>(type, Floats{});
  if (name == "lt") return HandlerFor<2, kLt>(type, Floats{});
  if (name == "le") return HandlerFor<2, kLe>(type, Floats{});
  if (name == "gt") return HandlerFor<2, kGt>(type, Floats{});
  if (name == "ge") return HandlerFor<2, kGe>(type, Floats{});
  if (name == "equ") return HandlerFor<2, kOrNaN<kEq>>(type, Floats{});
  if (name == "neu") return HandlerFor<2, kOrNaN<kNe>>(type, Floats{});
  if (name == "ltu") return HandlerFor<2, kOrNaN<kLt>>(type, Floats{});
  if (name == "leu") return HandlerFor<2, kOrNaN<kLe>>(type, Floats{});
  if (name == "gtu") return HandlerFor<2, kOrNaN<kGt>>(type, Floats{});
  if (name == "geu") return HandlerFor<2, kOrNaN<kGe>>(type, Floats{});
  if (name == "num") return HandlerFor<2, kNum>(type, Floats{});
  if (name == "nan") return HandlerFor<2, kNan>(type, Floats{});
  return nullptr;
}

}  // namespace

bool DecodeMove(Opcode& op, Instruction& in) {
  const std::string& name = op.name();
  if (name == "mov") {
    const Type type = op.TakeType();
    in.bytes = static_cast<uint8_t>(SizeOf(type));
    if (op.operand(1) == "%globaltimer") {
      if (type != Type::kU64) op.Refuse("type");
      op.Dst(in, 0);
      in.run = &ReadClock;
      return true;
    }
    op.DstAndSources(in, 1);
    if (type == Type::kPred)
      in.run = &MovePredicate;
    else
      in.run = in.num_sources > 1 ? &Pack : in.num_dsts > 1 ? &Unpack : &Move;
    return true;
  }
  if (name == "selp") {
    in.bytes = static_cast<uint8_t>(SizeOf(op.TakeType()));
    in.run = &Select;
    op.DstAndSources(in, 3);
    return true;
  }
  if (name == "setp") {
    const std::string comparison = op.TakeNext();
    const Type type = op.TakeType();
    in.run = type == Type::kF32 || type == Type::kF64 ? FloatComparison(comparison, type)
                                                      : IntegerComparison(comparison, type);
    op.DstAndSources(in, 2);
    return true;
  }
  return false;
}

}  // namespace tokenferry::fakegpu

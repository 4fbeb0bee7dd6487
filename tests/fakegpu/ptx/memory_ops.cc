#include <algorithm>
#include <cstring>

#include "tests/fakegpu/ptx/lanes.h"
#include "tests/fakegpu/ptx/opcode.h"

namespace tokenferry::fakegpu {
namespace {

uint64_t Extended(uint64_t value, const Instruction& in) {
  const int shift = 64 - 8 * in.bytes;
  if (in.is_signed) value = static_cast<uint64_t>(static_cast<int64_t>(value << shift) >> shift);
  return in.dst_bytes == 8 ? value : value & ((uint64_t{1} << 8 * in.dst_bytes) - 1);
}

void Load(Warp& w, const Instruction& in, uint32_t mask) {
  const Register address = w.Use(in.sources[0], mask);
  for (int i = 0; i < in.num_dsts; ++i) {
    if (in.dsts[i] >= 0) w.Define(in.dsts[i], mask);
  }
  ForLanes(mask, [&](int l) {
    const char* from = w.Memory(in.space, address.lane[l] + static_cast<uint64_t>(in.offset), in.bytes * in.num_dsts, l,
                                Warp::Access::kLoad);
    for (int i = 0; i < in.num_dsts; ++i) {
      uint64_t value = 0;
      std::memcpy(&value, from + i * in.bytes, in.bytes);
      if (in.dsts[i] >= 0) w.Define(in.dsts[i], 0).lane[l] = Extended(value, in);
    }
  });
}

void Store(Warp& w, const Instruction& in, uint32_t mask) {
  const int num_values = in.num_sources - 1;
  const Register& address = w.Use(in.sources[0], mask);
  const Register* values[8];
  for (int i = 0; i < num_values; ++i) values[i] = &w.Use(in.sources[1 + i], mask);
  ForLanes(mask, [&](int l) {
    char* to = w.Memory(in.space, address.lane[l] + static_cast<uint64_t>(in.offset), in.bytes * num_values, l,
                        Warp::Access::kStore);
    for (int i = 0; i < num_values; ++i) std::memcpy(to + i * in.bytes, &values[i]->lane[l], in.bytes);
  });
}

constexpr auto kAdd = [](auto old, auto x, auto) {
  if constexpr (std::is_floating_point_v<decltype(old)>)
    return OneNaN(old + x);
  else
    return static_cast<decltype(old)>(static_cast<uint64_t>(old) + static_cast<uint64_t>(x));
};
constexpr auto kMin = [](auto old, auto x, auto) { return std::min(old, x); };
constexpr auto kMax = [](auto old, auto x, auto) { return std::max(old, x); };
constexpr auto kAnd = [](auto old, auto x, auto) { return old & x; };
constexpr auto kOr = [](auto old, auto x, auto) { return old | x; };
constexpr auto kXor = [](auto old, auto x, auto) { return old ^ x; };
constexpr auto kExch = [](auto, auto x, auto) { return x; };
constexpr auto kCas = [](auto old, auto x, auto y) { return old == x ? y : old; };

// sources: address, operand, and for cas the new value. Lanes act one after the other.
template <auto Fn, class T>
void Atomic(Warp& w, const Instruction& in, uint32_t mask) {
  const Register address = w.Use(in.sources[0], mask), a = w.Use(in.sources[1], mask),
                 b = w.Use(in.sources[in.num_sources - 1], mask);
  Register* d = in.num_dsts > 0 && in.dsts[0] >= 0 ? &w.Define(in.dsts[0], mask) : nullptr;
  ForLanes(mask, [&](int l) {
    char* at =
        w.Memory(in.space, address.lane[l] + static_cast<uint64_t>(in.offset), sizeof(T), l, Warp::Access::kAtomic);
    T old;
    std::memcpy(&old, at, sizeof(T));
    const T value = static_cast<T>(Fn(old, As<T>(a.lane[l]), As<T>(b.lane[l])));
    std::memcpy(at, &value, sizeof(T));
    if (d != nullptr) d->lane[l] = Bits(old);
  });
}
template <auto Fn, class... Ts>
Handler AtomicFor(Type type, Types<Ts...>) {
  Handler handler = nullptr;
  ((StandsFor<Ts>(type) ? static_cast<void>(handler = &Atomic<Fn, Ts>) : static_cast<void>(0)), ...);
  return handler;
}
using Words = Types<uint32_t, uint64_t, int32_t, int64_t>;
using Summands = Types<uint32_t, uint64_t, int32_t, int64_t, float, double>;

Handler AtomicHandler(const std::string& name, Type type) {
  if (name == "add") return AtomicFor<kAdd>(type, Summands{});
  if (name == "min") return AtomicFor<kMin>(type, Words{});
  if (name == "max") return AtomicFor<kMax>(type, Words{});
  if (name == "and") return AtomicFor<kAnd>(type, Words{});
  if (name == "or") return AtomicFor<kOr>(type, Words{});
  if (name == "xor") return AtomicFor<kXor>(type, Words{});
  if (name == "exch") return AtomicFor<kExch>(type, Words{});
  if (name == "cas") return AtomicFor<kCas>(type, Words{});
  return nullptr;
}

// What orders memory: the interpreter is sequentially consistent, so that these change nothing.
void TakeOrder(Opcode& op) {
  for (const char* part :
       {"weak", "volatile", "relaxed", "acquire", "release", "acq_rel", "sc", "cta", "cluster", "gpu", "sys", "mmio"})
    op.Take(part);
}

void TakeSpace(Opcode& op, Instruction& in) {
  if (op.Take("global"))
    in.space = Space::kGlobal;
  else if (op.Take("shared"))
    in.space = Space::kShared;
  else if (op.Take("local"))
    in.space = Space::kLocal;
  else if (op.Take("param"))
    in.space = Space::kParam;
}

void TakeCacheHints(Opcode& op) {
  for (const char* part : {"ca", "cg", "cs", "lu", "cv", "wb", "wt", "nc", "L1::evict_normal", "L1::evict_unchanged",
                           "L1::evict_first", "L1::evict_last", "L1::no_allocate", "L2::64B", "L2::128B", "L2::256B"}) {
    op.Take(part);
  }
}

}  // namespace

bool DecodeMemory(Opcode& op, Instruction& in) {
  const std::string& name = op.name();
  if (name == "fence" || name == "membar") {
    TakeOrder(op);
    op.Take("gl");
    in.run = [](Warp&, const Instruction&, uint32_t) {};
    return true;
  }
  if (name != "ld" && name != "ldu" && name != "st" && name != "atom" && name != "red") return false;
  TakeOrder(op);
  TakeSpace(op, in);
  if (name == "atom" || name == "red") {
    const std::string what = op.TakeNext();
    op.Take("noftz");
    in.run = AtomicHandler(what, op.TakeType());
    const int first = name == "atom" ? 1 : 0;
    if (first == 1) op.Dst(in, 0);
    op.Address(in, first);
    for (int i = first + 1; i < op.num_operands(); ++i) op.Source(in, i);
    if (in.num_sources != (what == "cas" ? 3 : 2)) op.Refuse("number of operands");
    return true;
  }
  TakeCacheHints(op);
  const bool v2 = op.Take("v2"), v4 = op.Take("v4");
  const Type type = op.TakeType();
  in.bytes = static_cast<uint8_t>(SizeOf(type));
  in.is_signed = type == Type::kS8 || type == Type::kS16 || type == Type::kS32 || type == Type::kS64;
  const int count = v2 ? 2 : v4 ? 4 : 1;
  if (name == "st") {
    in.run = &Store;
    op.Address(in, 0);
    op.Source(in, 1);
    if (in.num_sources != 1 + count) op.Refuse("number of values");
  } else {
    in.run = &Load;
    op.Dst(in, 0);
    op.Address(in, 1);
    if (in.num_dsts != count) op.Refuse("number of values");
    in.dst_bytes = static_cast<uint8_t>(op.RegisterBytes(in.dsts[0]));
  }
  if (op.num_operands() != 2) op.Refuse("number of operands");
  return true;
}

}  // namespace tokenferry::fakegpu

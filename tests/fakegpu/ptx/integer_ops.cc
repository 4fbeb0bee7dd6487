#include <algorithm>

#include "tests/fakegpu/ptx/lanes.h"
#include "tests/fakegpu/ptx/opcode.h"

namespace tokenferry::fakegpu {
namespace {

// Without C++'s promotion to int and undefined overflow.
template <class T>
using Unsigned = std::make_unsigned_t<T>;
template <class T>
T Wrapped(uint64_t value) {
  return static_cast<T>(value);
}
constexpr auto kAdd = [](auto a, auto b) {
  return Wrapped<decltype(a)>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
};
constexpr auto kSub = [](auto a, auto b) {
  return Wrapped<decltype(a)>(static_cast<uint64_t>(a) - static_cast<uint64_t>(b));
};
constexpr auto kMulLo = [](auto a, auto b) {
  return Wrapped<decltype(a)>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
};
constexpr auto kMadLo = [](auto a, auto b, auto c) {
  return Wrapped<decltype(a)>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b) + static_cast<uint64_t>(c));
};
template <class T>
using Wide = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
constexpr auto kMulHi = [](auto a, auto b) {
  using T = decltype(a);
  return static_cast<T>((static_cast<Wide<T>>(a) * static_cast<Wide<T>>(b)) >> (8 * sizeof(T)));
};
template <class T>
struct Doubled;
template <>
struct Doubled<uint16_t> {
  using type = uint32_t;
};
template <>
struct Doubled<int16_t> {
  using type = int32_t;
};
template <>
struct Doubled<uint32_t> {
  using type = uint64_t;
};
template <>
struct Doubled<int32_t> {
  using type = int64_t;
};
constexpr auto kMulWide = [](auto a, auto b) {
  return static_cast<typename Doubled<decltype(a)>::type>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
};

template <class T>
void MadWide(Warp& w, const Instruction& in, uint32_t mask) {
  using D = typename Doubled<T>::type;
  const Register &a = w.Use(in.sources[0], mask), &b = w.Use(in.sources[1], mask), &c = w.Use(in.sources[2], mask);
  Register& d = w.Define(in.dsts[0], mask);
  ForLanes(mask,
           [&](int l) { d.lane[l] = Bits(kAdd(kMulWide(As<T>(a.lane[l]), As<T>(b.lane[l])), As<D>(c.lane[l]))); });
}

// A quotient by 0 is unspecified; it is the GPU's usual one.
template <class T>
bool Overflows(T a, T b) {
  return std::is_signed_v<T> && b == static_cast<T>(-1) && a == std::numeric_limits<T>::min();
}
constexpr auto kDiv = [](auto a, auto b) {
  using T = decltype(a);
  if (b == 0) return static_cast<T>(-1);
  return Overflows(a, b) ? a : static_cast<T>(a / b);
};
constexpr auto kRem = [](auto a, auto b) {
  using T = decltype(a);
  if (b == 0) return a;
  return Overflows(a, b) ? static_cast<T>(0) : static_cast<T>(a % b);
};
constexpr auto kMin = [](auto a, auto b) { return std::min(a, b); };
constexpr auto kMax = [](auto a, auto b) { return std::max(a, b); };
constexpr auto kNeg = [](auto a) { return Wrapped<decltype(a)>(-static_cast<uint64_t>(a)); };
constexpr auto kAbs = [](auto a) { return a < 0 ? kNeg(a) : a; };
constexpr auto kAnd = [](auto a, auto b) { return static_cast<decltype(a)>(a & b); };
constexpr auto kOr = [](auto a, auto b) { return static_cast<decltype(a)>(a | b); };
constexpr auto kXor = [](auto a, auto b) { return static_cast<decltype(a)>(a ^ b); };
constexpr auto kNot = [](auto a) {
  if constexpr (std::is_same_v<decltype(a), bool>)
    return !a;
  else
    return static_cast<decltype(a)>(~a);
};
constexpr auto kPopc = [](auto a) { return static_cast<uint32_t>(std::popcount(a)); };
constexpr auto kClz = [](auto a) { return static_cast<uint32_t>(std::countl_zero(a)); };
constexpr auto kBrev = [](auto a) {
  decltype(a) r = 0;
  for (size_t i = 0; i < 8 * sizeof(a); ++i) r = r << 1 | (a >> i & 1);
  return r;
};
constexpr auto kBfind = [](auto a) {
  using U = Unsigned<decltype(a)>;
  const U u = static_cast<U>(a < 0 ? ~a : a);
  return static_cast<uint32_t>(std::bit_width(u)) - 1;
};
constexpr auto kBfindShift = [](auto a) {
  const uint32_t at = kBfind(a);
  return at == ~0u ? at : static_cast<uint32_t>(8 * sizeof(a) - 1) - at;
};

// The amount is a u32; beyond the width everything is shifted out.
template <class T, bool kLeft>
void Shift(Warp& w, const Instruction& in, uint32_t mask) {
  const Register &a = w.Use(in.sources[0], mask), &b = w.Use(in.sources[1], mask);
  Register& d = w.Define(in.dsts[0], mask);
  constexpr uint32_t kBits = 8 * sizeof(T);
  ForLanes(mask, [&](int l) {
    const T value = As<T>(a.lane[l]);
    const auto amount = static_cast<uint32_t>(b.lane[l]);
    if (kLeft)
      d.lane[l] = amount >= kBits ? 0 : Bits(static_cast<T>(static_cast<Unsigned<T>>(value) << amount));
    else
      d.lane[l] = Bits(static_cast<T>(amount >= kBits ? (value < 0 ? -1 : 0) : value >> amount));
  });
}
template <bool kLeft, class... Ts>
Handler ShiftFor(Type type, Types<Ts...>) {
  Handler handler = nullptr;
  ((StandsFor<Ts>(type) ? static_cast<void>(handler = &Shift<Ts, kLeft>) : static_cast<void>(0)), ...);
  return handler;
}

void Prmt(Warp& w, const Instruction& in, uint32_t mask) {
  const Register &a = w.Use(in.sources[0], mask), &b = w.Use(in.sources[1], mask), &c = w.Use(in.sources[2], mask);
  Register& d = w.Define(in.dsts[0], mask);
  ForLanes(mask, [&](int l) {
    const uint64_t bytes = (a.lane[l] & 0xFFFFFFFF) | b.lane[l] << 32;
    uint32_t out = 0;
    for (int i = 0; i < 4; ++i) {
      const uint32_t pick = c.lane[l] >> (4 * i) & 15;
      uint32_t byte = bytes >> (8 * (pick & 7)) & 0xFF;
      if (pick & 8) byte = byte & 0x80 ? 0xFF : 0;
      out |= byte << (8 * i);
    }
    d.lane[l] = out;
  });
}

// shf: the high (left) or low (right) word of a shifted pair; the amount wraps or is clamped to 32.
void FunnelShift(Warp& w, const Instruction& in, uint32_t mask, bool left) {
  const Register &a = w.Use(in.sources[0], mask), &b = w.Use(in.sources[1], mask), &c = w.Use(in.sources[2], mask);
  Register& d = w.Define(in.dsts[0], mask);
  ForLanes(mask, [&](int l) {
    const uint64_t pair = (a.lane[l] & 0xFFFFFFFF) | b.lane[l] << 32;
    const auto amount =
        in.in_order ? static_cast<uint32_t>(c.lane[l]) & 31 : std::min<uint32_t>(static_cast<uint32_t>(c.lane[l]), 32);
    d.lane[l] = static_cast<uint32_t>(left ? (pair << amount) >> 32 : pair >> amount);
  });
}

// bfe: `length` bits from `position`, zero- or sign-extended.
template <class T>
void Bfe(Warp& w, const Instruction& in, uint32_t mask) {
  const Register &a = w.Use(in.sources[0], mask), &b = w.Use(in.sources[1], mask), &c = w.Use(in.sources[2], mask);
  Register& d = w.Define(in.dsts[0], mask);
  constexpr int kBits = 8 * sizeof(T);
  ForLanes(mask, [&](int l) {
    const T value = As<T>(a.lane[l]);
    const int position = b.lane[l] & 0xFF, length = c.lane[l] & 0xFF;
    Unsigned<T> out = 0;
    const int sign_at = std::min(position + length - 1, kBits - 1);
    const bool sign = std::is_signed_v<T> && length > 0 && (value >> sign_at & 1);
    for (int i = 0; i < kBits; ++i) {
      const bool bit = i < length && position + i < kBits ? value >> (position + i) & 1 : sign;
      out |= static_cast<Unsigned<T>>(bit) << i;
    }
    d.lane[l] = Bits(static_cast<T>(out));
  });
}

template <class U>
void Bfi(Warp& w, const Instruction& in, uint32_t mask) {
  const Register &a = w.Use(in.sources[0], mask), &b = w.Use(in.sources[1], mask), &c = w.Use(in.sources[2], mask),
                 &n = w.Use(in.sources[3], mask);
  Register& d = w.Define(in.dsts[0], mask);
  ForLanes(mask, [&](int l) {
    const int position = c.lane[l] & 0xFF, length = n.lane[l] & 0xFF;
    U out = static_cast<U>(b.lane[l]);
    for (int i = 0; i < length && position + i < static_cast<int>(8 * sizeof(U)); ++i) {
      out = (out & ~(U{1} << (position + i))) | static_cast<U>(a.lane[l] >> i & 1) << (position + i);
    }
    d.lane[l] = out;
  });
}

// lop3: any function of three bits, by its table.
void Lop3(Warp& w, const Instruction& in, uint32_t mask) {
  const Register &a = w.Use(in.sources[0], mask), &b = w.Use(in.sources[1], mask), &c = w.Use(in.sources[2], mask),
                 &t = w.Use(in.sources[3], mask);
  Register& d = w.Define(in.dsts[0], mask);
  ForLanes(mask, [&](int l) {
    uint32_t out = 0;
    for (int i = 0; i < 32; ++i) {
      const int row = static_cast<int>((a.lane[l] >> i & 1) << 2 | (b.lane[l] >> i & 1) << 1 | (c.lane[l] >> i & 1));
      out |= static_cast<uint32_t>(t.lane[l] >> row & 1) << i;
    }
    d.lane[l] = out;
  });
}

bool IsFloat(Type t) {
  return t == Type::kF32 || t == Type::kF64 || t == Type::kF16 || t == Type::kBF16 || t == Type::kF16x2 ||
         t == Type::kBF16x2;
}

}  // namespace

bool DecodeInteger(Opcode& op, Instruction& in) {
  const std::string& name = op.name();
  const auto last_type = [&] {
    Opcode copy = op;
    Type t = Type::kNone;
    while (!copy.empty()) t = TypeNamed(copy.TakeNext());
    return t;
  }();
  if (IsFloat(last_type)) return false;
  const auto simple = [&](int num_sources, auto handler_for) {
    in.run = handler_for(op.TakeType());
    op.DstAndSources(in, num_sources);
    return true;
  };
  if (name == "add") return simple(2, [](Type t) { return HandlerFor<2, kAdd>(t, Integers{}); });
  if (name == "sub") return simple(2, [](Type t) { return HandlerFor<2, kSub>(t, Integers{}); });
  if (name == "div") return simple(2, [](Type t) { return HandlerFor<2, kDiv>(t, Integers{}); });
  if (name == "rem") return simple(2, [](Type t) { return HandlerFor<2, kRem>(t, Integers{}); });
  if (name == "min") return simple(2, [](Type t) { return HandlerFor<2, kMin>(t, Integers{}); });
  if (name == "max") return simple(2, [](Type t) { return HandlerFor<2, kMax>(t, Integers{}); });
  if (name == "neg") return simple(1, [](Type t) { return HandlerFor<1, kNeg>(t, Integers{}); });
  if (name == "abs")
    return simple(1, [](Type t) { return HandlerFor<1, kAbs>(t, Types<int16_t, int32_t, int64_t>{}); });
  if (name == "and") return simple(2, [](Type t) { return HandlerFor<2, kAnd>(t, BitTypes{}); });
  if (name == "or") return simple(2, [](Type t) { return HandlerFor<2, kOr>(t, BitTypes{}); });
  if (name == "xor") return simple(2, [](Type t) { return HandlerFor<2, kXor>(t, BitTypes{}); });
  if (name == "not") return simple(1, [](Type t) { return HandlerFor<1, kNot>(t, BitTypes{}); });
  if (name == "popc") return simple(1, [](Type t) { return HandlerFor<1, kPopc>(t, Types<uint32_t, uint64_t>{}); });
  if (name == "clz") return simple(1, [](Type t) { return HandlerFor<1, kClz>(t, Types<uint32_t, uint64_t>{}); });
  if (name == "brev") return simple(1, [](Type t) { return HandlerFor<1, kBrev>(t, Types<uint32_t, uint64_t>{}); });
  if (name == "bfind") {
    using Found = Types<uint32_t, uint64_t, int32_t, int64_t>;
    if (op.TakeFirst("shiftamt")) return simple(1, [](Type t) { return HandlerFor<1, kBfindShift>(t, Found{}); });
    return simple(1, [](Type t) { return HandlerFor<1, kBfind>(t, Found{}); });
  }
  if (name == "shl") return simple(2, [](Type t) { return ShiftFor<true>(t, Integers{}); });
  if (name == "shr") return simple(2, [](Type t) { return ShiftFor<false>(t, Integers{}); });
  if (name == "bfe") {
    return simple(3, [](Type t) -> Handler {
      return t == Type::kU32   ? &Bfe<uint32_t>
             : t == Type::kS32 ? &Bfe<int32_t>
             : t == Type::kU64 ? &Bfe<uint64_t>
             : t == Type::kS64 ? &Bfe<int64_t>
                               : nullptr;
    });
  }
  if (name == "bfi") {
    return simple(4, [](Type t) -> Handler {
      return t == Type::kB32 ? &Bfi<uint32_t> : t == Type::kB64 ? &Bfi<uint64_t> : nullptr;
    });
  }
  if (name == "lop3") return simple(4, [](Type t) -> Handler { return t == Type::kB32 ? &Lop3 : nullptr; });
  if (name == "prmt") return simple(3, [](Type t) -> Handler { return t == Type::kB32 ? &Prmt : nullptr; });
  if (name == "shf") {
    const bool left = op.TakeFirst("l");
    if (!left && !op.TakeFirst("r")) op.Refuse("direction");
    in.in_order = op.TakeFirst("wrap");
    if (!in.in_order && !op.TakeFirst("clamp")) op.Refuse("mode");
    in.run = left ? Handler([](Warp& w, const Instruction& i, uint32_t mask) { FunnelShift(w, i, mask, true); })
                  : Handler([](Warp& w, const Instruction& i, uint32_t mask) { FunnelShift(w, i, mask, false); });
    if (op.TakeType() != Type::kB32) op.Refuse("type");
    op.DstAndSources(in, 3);
    return true;
  }
  if (name == "mul" || name == "mad") {
    const bool add = name == "mad";
    using Narrow = Types<uint16_t, int16_t, uint32_t, int32_t>;
    if (op.TakeFirst("lo")) {
      if (add) return simple(3, [](Type t) { return HandlerFor<3, kMadLo>(t, Integers{}); });
      return simple(2, [](Type t) { return HandlerFor<2, kMulLo>(t, Integers{}); });
    }
    if (op.TakeFirst("hi") && !add) return simple(2, [](Type t) { return HandlerFor<2, kMulHi>(t, Integers{}); });
    if (!op.TakeFirst("wide")) op.Refuse("half of the product");
    if (!add) return simple(2, [](Type t) { return HandlerFor<2, kMulWide>(t, Narrow{}); });
    return simple(3, [](Type t) -> Handler {
      return t == Type::kU32   ? &MadWide<uint32_t>
             : t == Type::kS32 ? &MadWide<int32_t>
             : t == Type::kU16 ? &MadWide<uint16_t>
             : t == Type::kS16 ? &MadWide<int16_t>
                               : nullptr;
    });
  }
  return false;
}

}  // namespace tokenferry::fakegpu

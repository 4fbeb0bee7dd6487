#include <algorithm>

#include "tests/fakegpu/ptx/half.h"
#include "tests/fakegpu/ptx/lanes.h"
#include "tests/fakegpu/ptx/opcode.h"

namespace tokenferry::fakegpu {
namespace {

constexpr auto kToEven = [](auto x) { return std::nearbyint(x); };
constexpr auto kToZero = [](auto x) { return std::trunc(x); };
constexpr auto kDown = [](auto x) { return std::floor(x); };
constexpr auto kUp = [](auto x) { return std::ceil(x); };
constexpr auto kAsIs = [](auto x) { return x; };

// A float to an integer: rounded to a whole number, clamped to the range; NaN is 0 (of 64 bits: the least number).
template <class To, class From, auto Whole>
To FloatToInt(From x) {
  if (x != x) return sizeof(To) == 8 ? static_cast<To>(uint64_t{1} << 63) : 0;
  const From whole = Whole(x);
  if (whole < static_cast<From>(std::numeric_limits<To>::min())) return std::numeric_limits<To>::min();
  // The largest integer itself may not be a float: compare with the power of two behind it.
  if (whole >= std::ldexp(From{1}, std::numeric_limits<To>::digits)) return std::numeric_limits<To>::max();
  return static_cast<To>(whole);
}

template <class To, class From, auto Whole>
constexpr auto kConvert = [](From x) {
  if constexpr (std::is_integral_v<To> && std::is_floating_point_v<From>)
    return FloatToInt<To, From, Whole>(x);
  else if constexpr (std::is_floating_point_v<To> && std::is_floating_point_v<From>)
    return OneNaN(static_cast<To>(Whole(x)));
  else
    return static_cast<To>(x);
};

// The destination register may be wider than the type: integers are extended to it.
template <class To, class From, auto Whole>
void Convert(Warp& w, const Instruction& in, uint32_t mask) {
  const Register& a = w.Use(in.sources[0], mask);
  Register& d = w.Define(in.dsts[0], mask);
  ForLanes(mask, [&](int l) {
    const To value = kConvert<To, From, Whole>(As<From>(a.lane[l]));
    d.lane[l] = Bits(value);
    if constexpr (std::is_integral_v<To> && std::is_signed_v<To>) {
      const uint64_t extended = static_cast<uint64_t>(static_cast<int64_t>(value));
      d.lane[l] = in.dst_bytes == 8 ? extended : extended & ((uint64_t{1} << 8 * in.dst_bytes) - 1);
    }
  });
}

// What is whole already needs no rounding to whole numbers.
using Floats = Types<float, double>;
using All = Types<uint8_t, uint16_t, uint32_t, uint64_t, int8_t, int16_t, int32_t, int64_t, float, double>;

template <class To, auto Whole, class... Froms>
Handler FromOf(Type from, Types<Froms...>) {
  Handler handler = nullptr;
  ((StandsFor<Froms>(from) ? static_cast<void>(handler = &Convert<To, Froms, Whole>) : static_cast<void>(0)), ...);
  return handler;
}
template <auto Whole, class Froms, class... Tos>
Handler Between(Type to, Type from, Froms froms, Types<Tos...>) {
  Handler handler = nullptr;
  ((StandsFor<Tos>(to) ? static_cast<void>(handler = FromOf<Tos, Whole>(from, froms)) : static_cast<void>(0)), ...);
  return handler;
}

template <const HalfFormat& kFormat, Rounding kRounding>
void FloatToHalf(Warp& w, const Instruction& in, uint32_t mask) {
  const Register &a = w.Use(in.sources[0], mask), &b = w.Use(in.sources[in.num_sources - 1], mask);
  Register& d = w.Define(in.dsts[0], mask);
  ForLanes(mask, [&](int l) {
    d.lane[l] = ToHalfBits(As<float>(a.lane[l]), kFormat, kRounding);
    // Of a pair the first source becomes the upper half.
    if (in.num_sources == 2) d.lane[l] = d.lane[l] << 16 | ToHalfBits(As<float>(b.lane[l]), kFormat, kRounding);
  });
}
template <const HalfFormat& kFormat>
constexpr auto kHalfToFloat = [](uint16_t bits) { return OneNaN(static_cast<float>(FromHalfBits(bits, kFormat))); };

void FloatsToE4M3(Warp& w, const Instruction& in, uint32_t mask) {
  const Register &a = w.Use(in.sources[0], mask), &b = w.Use(in.sources[1], mask);
  Register& d = w.Define(in.dsts[0], mask);
  ForLanes(mask, [&](int l) {
    d.lane[l] = ToE4M3Saturated(As<float>(a.lane[l])) << 8 | ToE4M3Saturated(As<float>(b.lane[l]));
  });
}
constexpr auto kE4M3ToHalves = [](uint16_t codes) {
  return static_cast<uint32_t>(ToHalfBits(FromE4M3(codes >> 8), kF16Format)) << 16 |
         ToHalfBits(FromE4M3(codes & 0xFF), kF16Format);
};

bool IsFloat(Type t) { return t == Type::kF32 || t == Type::kF64; }

Handler HalfConversion(Opcode& op, Type to, Type from, const std::string& rounding) {
  const bool pair = to == Type::kF16x2 || to == Type::kBF16x2;
  if (from == Type::kF32 && (to == Type::kF16 || to == Type::kF16x2)) {
    if (rounding == "rn") return &FloatToHalf<kF16Format, Rounding::kNearest>;
    if (rounding == "rz") return &FloatToHalf<kF16Format, Rounding::kToZero>;
  }
  if (from == Type::kF32 && (to == Type::kBF16 || to == Type::kBF16x2)) {
    if (rounding == "rn") return &FloatToHalf<kBF16Format, Rounding::kNearest>;
    if (rounding == "rz") return &FloatToHalf<kBF16Format, Rounding::kToZero>;
  }
  if (to == Type::kF32 && from == Type::kF16) return &Apply<1, kHalfToFloat<kF16Format>, uint16_t>;
  if (to == Type::kF32 && from == Type::kBF16) return &Apply<1, kHalfToFloat<kBF16Format>, uint16_t>;
  if (to == Type::kE4M3x2 && from == Type::kF32 && rounding == "rn" && op.Take("satfinite")) return &FloatsToE4M3;
  if (to == Type::kF16x2 && from == Type::kE4M3x2 && pair) return &Apply<1, kE4M3ToHalves, uint16_t>;
  return nullptr;
}

}  // namespace

bool DecodeConvert(Opcode& op, Instruction& in) {
  if (op.name() == "cvta") {  // between an address space and generic addresses
    const bool to_space = op.TakeFirst("to");
    const std::string space = op.TakeNext();
    if (op.TakeType() != Type::kU64) op.Refuse("type");
    op.DstAndSources(in, 1);
    in.offset = 0;
    if (space == "shared")
      in.offset = static_cast<int64_t>(kSharedWindow);
    else if (space == "local")
      in.offset = static_cast<int64_t>(kLocalWindow);
    else if (space != "global")
      op.Refuse("address space");
    if (to_space) in.offset = -in.offset;
    in.run = [](Warp& w, const Instruction& i, uint32_t mask) {
      const Register& a = w.Use(i.sources[0], mask);
      Register& d = w.Define(i.dsts[0], mask);
      ForLanes(mask, [&](int l) { d.lane[l] = a.lane[l] + static_cast<uint64_t>(i.offset); });
    };
    return true;
  }
  if (op.name() != "cvt") return false;
  if (op.Take("ftz") || op.Take("sat") || op.Take("relu")) op.Refuse("mode");
  std::string rounding;
  for (const char* name : {"rn", "rz", "rm", "rp", "rni", "rzi", "rmi", "rpi"}) {
    if (op.TakeFirst(name)) rounding = name;
  }
  const bool saturates = op.TakeFirst("satfinite");
  const Type to = op.TakeType(), from = op.TakeType();
  if (saturates && !(to == Type::kE4M3x2 && from == Type::kF32 && rounding == "rn")) op.Refuse("satfinite");
  if (saturates)
    in.run = &FloatsToE4M3;
  else
    in.run = HalfConversion(op, to, from, rounding);
  op.Dst(in, 0);
  for (int i = 1; i < op.num_operands(); ++i) op.Source(in, i);
  in.dst_bytes = static_cast<uint8_t>(op.RegisterBytes(in.dsts[0]));
  if (in.run != nullptr) return true;
  const bool whole = rounding == "rni" || rounding == "rzi" || rounding == "rmi" || rounding == "rpi";
  if (IsFloat(from) && !IsFloat(to) && !whole) op.Refuse("a rounding to whole numbers was expected");
  if (IsFloat(to) && !IsFloat(from) && rounding != "rn") op.Refuse("rounding");
  if (to == Type::kF32 && from == Type::kF64 && rounding != "rn") op.Refuse("rounding");
  if (!whole || !IsFloat(from))
    in.run = Between<kAsIs>(to, from, All{}, All{});
  else if (rounding == "rni")
    in.run = Between<kToEven>(to, from, Floats{}, All{});
  else if (rounding == "rzi")
    in.run = Between<kToZero>(to, from, Floats{}, All{});
  else if (rounding == "rmi")
    in.run = Between<kDown>(to, from, Floats{}, All{});
  else
    in.run = Between<kUp>(to, from, Floats{}, All{});
  return true;
}

}  // namespace tokenferry::fakegpu

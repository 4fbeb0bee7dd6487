// Handlers over lanes: a function of the values of one lane, applied to all in the mask.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "tests/fakegpu/ptx/warp.h"

namespace tokenferry::fakegpu {

struct Half {  // f16 and bf16 as bits
  uint16_t bits;
};

template <class T>
T As(uint64_t bits) {
  if constexpr (std::is_same_v<T, bool>)
    return bits != 0;
  else if constexpr (std::is_same_v<T, float>)
    return std::bit_cast<float>(static_cast<uint32_t>(bits));
  else if constexpr (std::is_same_v<T, double>)
    return std::bit_cast<double>(bits);
  else if constexpr (std::is_same_v<T, Half>)
    return {static_cast<uint16_t>(bits)};
  else
    return static_cast<T>(bits);
}

template <class T>
uint64_t Bits(T value) {
  if constexpr (std::is_same_v<T, bool>)
    return value;
  else if constexpr (std::is_same_v<T, float>)
    return std::bit_cast<uint32_t>(value);
  else if constexpr (std::is_same_v<T, double>)
    return std::bit_cast<uint64_t>(value);
  else if constexpr (std::is_same_v<T, Half>)
    return value.bits;
  else
    return static_cast<std::make_unsigned_t<T>>(value);
}

// A GPU's arithmetic has one NaN; an x86's depends on the operands.
template <class T>
T OneNaN(T value) {
  if (value == value) return value;
  if constexpr (std::is_same_v<T, float>)
    return std::bit_cast<float>(0x7FFFFFFFu);
  else
    return std::bit_cast<double>(uint64_t{0xFFF8000000000000});
}

template <class Body>
void ForLanes(uint32_t mask, const Body& body) {
  if (mask == ~0u) {
    for (int l = 0; l < kLanes; ++l) body(l);
  } else {
    for (; mask != 0; mask &= mask - 1) body(std::countr_zero(mask));
  }
}

// dst = Fn(sources ..), each a T.
template <int kNumSources, auto Fn, class T>
void Apply(Warp& w, const Instruction& in, uint32_t mask) {
  const Register& a = w.Use(in.sources[0], mask);
  const Register& b = w.Use(in.sources[kNumSources > 1 ? 1 : 0], mask);
  const Register& c = w.Use(in.sources[kNumSources > 2 ? 2 : 0], mask);
  Register& d = w.Define(in.dsts[0], mask);
  ForLanes(mask, [&](int l) {
    if constexpr (kNumSources == 1) d.lane[l] = Bits(Fn(As<T>(a.lane[l])));
    if constexpr (kNumSources == 2) d.lane[l] = Bits(Fn(As<T>(a.lane[l]), As<T>(b.lane[l])));
    if constexpr (kNumSources == 3) d.lane[l] = Bits(Fn(As<T>(a.lane[l]), As<T>(b.lane[l]), As<T>(c.lane[l])));
  });
}

// The C++ type that stands for a PTX type.
template <class T>
constexpr bool StandsFor(Type type) {
  switch (type) {
    case Type::kB8:
    case Type::kU8:
      return std::is_same_v<T, uint8_t>;
    case Type::kB16:
    case Type::kU16:
      return std::is_same_v<T, uint16_t>;
    case Type::kB32:
    case Type::kU32:
      return std::is_same_v<T, uint32_t>;
    case Type::kB64:
    case Type::kU64:
      return std::is_same_v<T, uint64_t>;
    case Type::kS8:
      return std::is_same_v<T, int8_t>;
    case Type::kS16:
      return std::is_same_v<T, int16_t>;
    case Type::kS32:
      return std::is_same_v<T, int32_t>;
    case Type::kS64:
      return std::is_same_v<T, int64_t>;
    case Type::kF32:
      return std::is_same_v<T, float>;
    case Type::kF64:
      return std::is_same_v<T, double>;
    case Type::kPred:
      return std::is_same_v<T, bool>;
    default:
      return false;
  }
}

template <class... Ts>
struct Types {};
using Integers = Types<uint16_t, uint32_t, uint64_t, int16_t, int32_t, int64_t>;
using BitTypes = Types<bool, uint16_t, uint32_t, uint64_t>;
using Floats = Types<float, double>;

// The handler of dst = Fn(sources ..) for `type`; null if it is none of Ts.
template <int kNumSources, auto Fn, class... Ts>
Handler HandlerFor(Type type, Types<Ts...>) {
  Handler handler = nullptr;
  ((StandsFor<Ts>(type) ? static_cast<void>(handler = &Apply<kNumSources, Fn, Ts>) : static_cast<void>(0)), ...);
  return handler;
}

}  // namespace tokenferry::fakegpu

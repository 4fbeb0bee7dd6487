#include "tests/fakegpu/ptx/half.h"
#include "tests/fakegpu/ptx/lanes.h"
#include "tests/fakegpu/ptx/opcode.h"

namespace tokenferry::fakegpu {
namespace {

constexpr auto kAdd = [](auto a, auto b) { return OneNaN(a + b); };
constexpr auto kSub = [](auto a, auto b) { return OneNaN(a - b); };
constexpr auto kMul = [](auto a, auto b) { return OneNaN(a * b); };
constexpr auto kFma = [](auto a, auto b, auto c) { return OneNaN(std::fma(a, b, c)); };
constexpr auto kDiv = [](auto a, auto b) { return OneNaN(a / b); };
constexpr auto kSqrt = [](auto a) { return OneNaN(std::sqrt(a)); };
constexpr auto kRcp = [](auto a) { return OneNaN(1 / a); };
constexpr auto kNeg = [](auto a) { return -a; };
constexpr auto kAbs = [](auto a) { return std::fabs(a); };
// A NaN counts as missing; -0 is less than +0.
constexpr auto kMin = [](auto a, auto b) {
  if (a != a) return OneNaN(b);
  if (b != b || a < b) return a;
  return b < a || std::signbit(b) ? b : a;
};
constexpr auto kMax = [](auto a, auto b) {
  if (a != a) return OneNaN(b);
  if (b != b || a > b) return a;
  return b > a || !std::signbit(b) ? b : a;
};
template <auto Fn>
constexpr auto kNaNWins = [](auto a, auto b) {
  return a != a ? OneNaN(a) : b != b ? OneNaN(b) : Fn(a, b);
};

// Arithmetic of f16 and bf16, one value or two side by side.
template <const HalfFormat& kFormat, int kNumSources, auto Fn>
void HalfApply(Warp& w, const Instruction& in, uint32_t mask) {
  const Register& a = w.Use(in.sources[0], mask);
  const Register& b = w.Use(in.sources[kNumSources > 1 ? 1 : 0], mask);
  const Register& c = w.Use(in.sources[kNumSources > 2 ? 2 : 0], mask);
  Register& d = w.Define(in.dsts[0], mask);
  ForLanes(mask, [&](int l) {
    uint64_t out = 0;
    for (int i = 0; i < (in.in_order ? 2 : 1); ++i) {
      const auto value = [&](const Register& r) {
        return FromHalfBits(static_cast<uint16_t>(r.lane[l] >> (16 * i)), kFormat);
      };
      out |= static_cast<uint64_t>(ToHalfBits(Fn(value(a), value(b), value(c)), kFormat)) << (16 * i);
    }
    d.lane[l] = out;
  });
}
// Products of two such numbers are exact in a double; sums are rounded to odd.
constexpr auto kHalfAdd = [](double a, double b, double) { return SumRoundedToOdd(a, b); };
constexpr auto kHalfSub = [](double a, double b, double) { return SumRoundedToOdd(a, -b); };
constexpr auto kHalfMul = [](double a, double b, double) { return a * b; };
constexpr auto kHalfFma = [](double a, double b, double c) { return SumRoundedToOdd(a * b, c); };
constexpr auto kHalfMin = [](double a, double b, double) { return kMin(a, b); };
constexpr auto kHalfMax = [](double a, double b, double) { return kMax(a, b); };

template <const HalfFormat& kFormat>
Handler HalfHandler(const std::string& name) {
  if (name == "add") return &HalfApply<kFormat, 2, kHalfAdd>;
  if (name == "sub") return &HalfApply<kFormat, 2, kHalfSub>;
  if (name == "mul") return &HalfApply<kFormat, 2, kHalfMul>;
  if (name == "fma") return &HalfApply<kFormat, 3, kHalfFma>;
  if (name == "min") return &HalfApply<kFormat, 2, kHalfMin>;
  if (name == "max") return &HalfApply<kFormat, 2, kHalfMax>;
  return nullptr;
}

Handler WideHandler(const std::string& name, Type type, bool nan_wins) {
  if (name == "add") return HandlerFor<2, kAdd>(type, Floats{});
  if (name == "sub") return HandlerFor<2, kSub>(type, Floats{});
  if (name == "mul") return HandlerFor<2, kMul>(type, Floats{});
  if (name == "fma" || name == "mad") return HandlerFor<3, kFma>(type, Floats{});
  if (name == "div") return HandlerFor<2, kDiv>(type, Floats{});
  if (name == "sqrt") return HandlerFor<1, kSqrt>(type, Floats{});
  if (name == "rcp") return HandlerFor<1, kRcp>(type, Floats{});
  if (name == "neg") return HandlerFor<1, kNeg>(type, Floats{});
  if (name == "abs") return HandlerFor<1, kAbs>(type, Floats{});
  if (name == "min")
    return nan_wins ? HandlerFor<2, kNaNWins<kMin>>(type, Floats{}) : HandlerFor<2, kMin>(type, Floats{});
  if (name == "max")
    return nan_wins ? HandlerFor<2, kNaNWins<kMax>>(type, Floats{}) : HandlerFor<2, kMax>(type, Floats{});
  return nullptr;
}

int NumSources(const std::string& name) {
  if (name == "fma" || name == "mad") return 3;
  return name == "sqrt" || name == "rcp" || name == "neg" || name == "abs" ? 1 : 2;
}

}  // namespace

bool DecodeFloat(Opcode& op, Instruction& in) {
  const std::string& name = op.name();
  if (WideHandler(name, Type::kF32, false) == nullptr) return false;
  // Only what is rounded correctly is the same everywhere; approximations are a GPU's own.
  if (op.Take("approx") || op.Take("full")) op.Refuse("an approximation");
  if (op.Take("ftz")) op.Refuse("flushes subnormal numbers");
  const bool rounds = !(name == "neg" || name == "abs" || name == "min" || name == "max");
  const bool named = op.TakeFirst("rn");
  const bool nan_wins = op.TakeFirst("NaN");
  const Type type = op.TakeType();
  const bool half = type == Type::kF16 || type == Type::kF16x2 || type == Type::kBF16 || type == Type::kBF16x2;
  if (named && !rounds) op.Refuse("rounding");
  if (!named && (name == "fma" || name == "div" || name == "sqrt" || name == "rcp")) op.Refuse("no rounding is named");
  if (half) {
    in.in_order = type == Type::kF16x2 || type == Type::kBF16x2;  // two values
    in.run =
        type == Type::kF16 || type == Type::kF16x2 ? HalfHandler<kF16Format>(name) : HalfHandler<kBF16Format>(name);
    if (nan_wins) op.Refuse("NaN");
  } else {
    in.run = WideHandler(name, type, nan_wins);
  }
  op.DstAndSources(in, NumSources(name));
  return true;
}

}  // namespace tokenferry::fakegpu

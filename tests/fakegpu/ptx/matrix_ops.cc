#include "tests/fakegpu/ptx/half.h"
#include "tests/fakegpu/ptx/lanes.h"
#include "tests/fakegpu/ptx/opcode.h"

namespace tokenferry::fakegpu {
namespace {

// mma.sync.m16n8k16: d[16, 8] = a[16, 16] b[16, 8] + c, of which lane l holds
//   a: rows l / 4 and l / 4 + 8, columns 2 (l % 4) .. + 1 and + 8 behind them; b: rows like a's columns, column l / 4;
//   c, d: rows l / 4 and l / 4 + 8, columns 2 (l % 4) .. + 1.
// The order in which a tensor core sums is not specified. Here the sum of products is made in double, which is exact
// for most inputs, and rounded once: compare with a tolerance.
template <const HalfFormat& kFormat>
void MultiplyTiles(Warp& w, const Instruction& in, uint32_t) {
  double a[16][16], b[16][8];
  const auto half = [](const Register& r, int l, int i) {
    const auto bits = static_cast<uint16_t>(r.lane[l] >> (16 * i));
    if constexpr (&kFormat == &kBF16Format) return double{std::bit_cast<float>(uint32_t{bits} << 16)};
    return FromHalfBits(bits, kFormat);
  };
  for (int i = 0; i < 8; ++i) {
    const Register& r = w.Use(in.sources[i / 2], ~0u);
    for (int l = 0; l < kLanes; ++l) a[l / 4 + (i / 2 % 2) * 8][l % 4 * 2 + i % 2 + i / 4 * 8] = half(r, l, i % 2);
  }
  for (int i = 0; i < 4; ++i) {
    const Register& r = w.Use(in.sources[4 + i / 2], ~0u);
    for (int l = 0; l < kLanes; ++l) b[l % 4 * 2 + i % 2 + i / 2 * 8][l / 4] = half(r, l, i % 2);
  }
  double sums[16][8] = {};
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < 16; ++k) {
      for (int col = 0; col < 8; ++col) sums[row][col] += a[row][k] * b[k][col];
    }
  }
  uint32_t out[4][kLanes];
  for (int i = 0; i < 4; ++i) {
    const Register& c = w.Use(in.sources[6 + i], ~0u);
    for (int l = 0; l < kLanes; ++l) {
      const double sum = sums[l / 4 + i / 2 * 8][l % 4 * 2 + i % 2] + As<float>(c.lane[l]);
      out[i][l] = static_cast<uint32_t>(Bits(OneNaN(static_cast<float>(sum))));
    }
  }
  for (int i = 0; i < 4; ++i) {
    Register& d = w.Define(in.dsts[i], ~0u);
    for (int l = 0; l < kLanes; ++l) d.lane[l] = out[i][l];
  }
}

}  // namespace

bool DecodeMatrix(Opcode& op, Instruction& in) {
  if (op.name() != "mma") return false;
  for (const char* part : {"sync", "aligned", "m16n8k16", "row", "col"}) {
    if (!op.TakeFirst(part)) op.Refuse("shape");
  }
  const Type d = op.TakeType(), a = op.TakeType(), b = op.TakeType(), c = op.TakeType();
  if (d != Type::kF32 || c != Type::kF32 || a != b || (a != Type::kBF16 && a != Type::kF16)) op.Refuse("types");
  in.run = a == Type::kBF16 ? &MultiplyTiles<kBF16Format> : &MultiplyTiles<kF16Format>;
  op.Dst(in, 0);
  for (int i = 1; i < 4; ++i) op.Source(in, i);
  if (op.num_operands() != 4 || in.num_dsts != 4 || in.num_sources != 10) op.Refuse("number of operands");
  op.WholeWarp(in);
  return true;
}

}  // namespace tokenferry::fakegpu

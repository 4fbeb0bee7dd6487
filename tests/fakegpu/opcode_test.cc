// Each instruction of the interpreter against the host's arithmetic, on special values and random ones.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>

#include "absl/strings/str_cat.h"
#include "tests/fakegpu/ptx/launch.h"
#include "tests/fakegpu/snippet.h"

namespace tokenferry::fakegpu {
namespace {

double D(uint64_t x) { return std::bit_cast<double>(x); }
int64_t S64(uint64_t x) { return static_cast<int64_t>(x); }
int16_t S16(uint64_t x) { return static_cast<int16_t>(x); }
uint16_t U16(uint64_t x) { return static_cast<uint16_t>(x); }
uint64_t Of(float x) { return x != x ? 0x7FFFFFFF : std::bit_cast<uint32_t>(x); }
uint64_t Of(double x) { return x != x ? 0xFFF8000000000000 : std::bit_cast<uint64_t>(x); }
uint64_t Of(int32_t x) { return static_cast<uint32_t>(x); }
uint64_t Of(uint32_t x) { return x; }
uint64_t Of(int64_t x) { return static_cast<uint64_t>(x); }
uint64_t Of(uint16_t x) { return x; }
uint64_t Of(bool x) { return x; }

// A NaN, also a signalling one, counts as missing; -0 is less than +0.
uint64_t Minimum(uint64_t a, uint64_t b) {
  if (F(a) != F(a)) return Of(F(b));
  if (F(b) != F(b)) return Of(F(a));
  return F(a) == F(b) ? U32(a) | U32(b) : Of(std::min(F(a), F(b)));
}
uint64_t Maximum(uint64_t a, uint64_t b) {
  if (F(a) != F(a)) return Of(F(b));
  if (F(b) != F(b)) return Of(F(a));
  return F(a) == F(b) ? U32(a) & U32(b) : Of(std::max(F(a), F(b)));
}

// Sources a, b, c are in %r1..3, %rs1..3, %f1..3, %fd1..3, %rd1..3; the result goes to %r0, %rs0, %f0, %fd0, %rd0 or
// %p0.
struct OpCase {
  const char* code;
  std::function<uint64_t(uint64_t a, uint64_t b, uint64_t c)> want;
};

uint64_t Clamped(float x, float whole, int64_t low, int64_t high) {
  if (x != x) return 0;
  return static_cast<uint64_t>(whole < static_cast<float>(low)                          ? low
                               : whole >= std::ldexp(1.0f, high == INT32_MAX ? 31 : 32) ? high
                                                                                        : static_cast<int64_t>(whole));
}

// Rounding to bf16 as the project's own core/formats does it: on bits.
uint64_t Bf16Of(uint32_t bits) {
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return 0x7FFF;
  return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

// _Float16 is the compiler's own half.
uint64_t HalfOf(float x) {
  if (x != x) return 0x7FFF;
  const _Float16 half = static_cast<_Float16>(x);
  uint16_t bits;
  std::memcpy(&bits, &half, 2);
  return bits;
}
float FromHalf(uint64_t x) {
  const auto bits = static_cast<uint16_t>(x);
  _Float16 half;
  std::memcpy(&half, &bits, 2);
  return static_cast<float>(half);
}

using u64 = uint64_t;
const std::vector<OpCase> kIntegerCases = {
    {"add.s32 %r0, %r1, %r2;", [](u64 a, u64 b, u64) { return Of(U32(a) + U32(b)); }},
    {"add.s64 %rd0, %rd1, %rd2;", [](u64 a, u64 b, u64) { return a + b; }},
    {"add.s16 %rs0, %rs1, %rs2;", [](u64 a, u64 b, u64) { return Of(U16(a + b)); }},
    {"sub.s32 %r0, %r1, %r2;", [](u64 a, u64 b, u64) { return Of(U32(a) - U32(b)); }},
    {"sub.s64 %rd0, %rd1, %rd2;", [](u64 a, u64 b, u64) { return a - b; }},
    {"mul.lo.s32 %r0, %r1, %r2;", [](u64 a, u64 b, u64) { return Of(U32(a) * U32(b)); }},
    {"mul.lo.s64 %rd0, %rd1, %rd2;", [](u64 a, u64 b, u64) { return a * b; }},
    {"mul.hi.u32 %r0, %r1, %r2;", [](u64 a, u64 b, u64) { return u64{U32(a)} * U32(b) >> 32; }},
    {"mul.hi.s32 %r0, %r1, %r2;",
     [](u64 a, u64 b, u64) { return Of(S32(static_cast<u64>(int64_t{S32(a)} * S32(b)) >> 32)); }},
    {"mul.hi.u64 %rd0, %rd1, %rd2;",
     [](u64 a, u64 b, u64) { return static_cast<u64>(static_cast<unsigned __int128>(a) * b >> 64); }},
    {"mul.wide.s32 %rd0, %r1, %r2;", [](u64 a, u64 b, u64) { return Of(int64_t{S32(a)} * S32(b)); }},
    {"mul.wide.u32 %rd0, %r1, %r2;", [](u64 a, u64 b, u64) { return u64{U32(a)} * U32(b); }},
    {"mul.wide.u16 %r0, %rs1, %rs2;", [](u64 a, u64 b, u64) { return Of(uint32_t{U16(a)} * U16(b)); }},
    {"mad.lo.s32 %r0, %r1, %r2, %r3;", [](u64 a, u64 b, u64 c) { return Of(U32(a) * U32(b) + U32(c)); }},
    {"mad.lo.s64 %rd0, %rd1, %rd2, %rd3;", [](u64 a, u64 b, u64 c) { return a * b + c; }},
    {"mad.wide.u32 %rd0, %r1, %r2, %rd3;", [](u64 a, u64 b, u64 c) { return u64{U32(a)} * U32(b) + c; }},
    {"mad.wide.s32 %rd0, %r1, %r2, %rd3;", [](u64 a, u64 b, u64 c) { return Of(int64_t{S32(a)} * S32(b)) + c; }},
    {"or.b32 %r2, %r2, 1; div.u32 %r0, %r1, %r2;", [](u64 a, u64 b, u64) { return Of(U32(a) / (U32(b) | 1)); }},
    {"or.b32 %r2, %r2, 2; shr.u32 %r2, %r2, 1; div.s32 %r0, %r1, %r2;",
     [](u64 a, u64 b, u64) { return Of(static_cast<int32_t>(S32(a) / int64_t{(U32(b) | 2) >> 1})); }},
    {"or.b32 %r2, %r2, 1; rem.u32 %r0, %r1, %r2;", [](u64 a, u64 b, u64) { return Of(U32(a) % (U32(b) | 1)); }},
    {"or.b64 %rd2, %rd2, 1; div.u64 %rd0, %rd1, %rd2;", [](u64 a, u64 b, u64) { return a / (b | 1); }},
    {"or.b64 %rd2, %rd2, 2; shr.u64 %rd2, %rd2, 1; rem.s64 %rd0, %rd1, %rd2;",
     [](u64 a, u64 b, u64) { return Of(S64(a) % S64((b | 2) >> 1)); }},
    {"min.s32 %r0, %r1, %r2;", [](u64 a, u64 b, u64) { return Of(std::min(S32(a), S32(b))); }},
    {"max.u64 %rd0, %rd1, %rd2;", [](u64 a, u64 b, u64) { return std::max(a, b); }},
    {"min.u32 %r0, %r1, %r2;", [](u64 a, u64 b, u64) { return Of(std::min(U32(a), U32(b))); }},
    {"max.s64 %rd0, %rd1, %rd2;", [](u64 a, u64 b, u64) { return Of(std::max(S64(a), S64(b))); }},
    {"neg.s32 %r0, %r1;", [](u64 a, u64, u64) { return Of(0 - U32(a)); }},
    {"neg.s64 %rd0, %rd1;", [](u64 a, u64, u64) { return 0 - a; }},
    {"abs.s32 %r0, %r1;", [](u64 a, u64, u64) { return Of(S32(a) < 0 ? 0 - U32(a) : U32(a)); }},
    {"and.b32 %r0, %r1, %r2;", [](u64 a, u64 b, u64) { return Of(U32(a) & U32(b)); }},
    {"or.b64 %rd0, %rd1, %rd2;", [](u64 a, u64 b, u64) { return a | b; }},
    {"xor.b16 %rs0, %rs1, %rs2;", [](u64 a, u64 b, u64) { return Of(U16(a ^ b)); }},
    {"not.b32 %r0, %r1;", [](u64 a, u64, u64) { return Of(~U32(a)); }},
    {"and.b32 %r2, %r2, 63; shl.b32 %r0, %r1, %r2;",
     [](u64 a, u64 b, u64) { return (b & 63) > 31 ? 0 : Of(U32(a) << (b & 31)); }},
    {"and.b32 %r2, %r2, 127; shl.b64 %rd0, %rd1, %r2;",
     [](u64 a, u64 b, u64) { return (b & 127) > 63 ? 0 : a << (b & 63); }},
    {"and.b32 %r2, %r2, 63; shr.u32 %r0, %r1, %r2;",
     [](u64 a, u64 b, u64) { return (b & 63) > 31 ? 0 : Of(U32(a) >> (b & 31)); }},
    {"and.b32 %r2, %r2, 63; shr.s32 %r0, %r1, %r2;",
     [](u64 a, u64 b, u64) { return Of(S32(a) >> std::min<int>(b & 63, 31)); }},
    {"and.b32 %r2, %r2, 127; shr.s64 %rd0, %rd1, %r2;",
     [](u64 a, u64 b, u64) { return Of(S64(a) >> std::min<int>(b & 127, 63)); }},
    {"popc.b32 %r0, %r1;", [](u64 a, u64, u64) { return Of(__builtin_popcount(U32(a))); }},
    {"clz.b32 %r0, %r1;", [](u64 a, u64, u64) { return U32(a) == 0 ? 32 : Of(__builtin_clz(U32(a))); }},
    {"bfind.u32 %r0, %r1;", [](u64 a, u64, u64) { return U32(a) == 0 ? 0xFFFFFFFF : Of(31 - __builtin_clz(U32(a))); }},
    {"bfind.shiftamt.u32 %r0, %r1;",
     [](u64 a, u64, u64) { return U32(a) == 0 ? 0xFFFFFFFF : Of(__builtin_clz(U32(a))); }},
    {"brev.b32 %r0, %r1;",
     [](u64 a, u64, u64) {
       u64 r = 0;
       for (int i = 0; i < 32; ++i) r |= (a >> i & 1) << (31 - i);
       return r;
     }},
    {"bfe.u32 %r0, %r1, 5, 9;", [](u64 a, u64, u64) { return a >> 5 & 0x1FF; }},
    {"bfe.s32 %r0, %r1, 5, 9;", [](u64 a, u64, u64) { return Of(S32(U32(a) << 18) >> 23); }},
    {"bfi.b32 %r0, %r1, %r2, 3, 7;",
     [](u64 a, u64 b, u64) { return Of((U32(b) & ~(0x7Fu << 3)) | (U32(a) & 0x7F) << 3); }},
    {"bfi.b64 %rd0, %rd1, %rd2, 6, 58;", [](u64 a, u64 b, u64) { return a << 6 | (b & 63); }},
    {"bfi.b64 %rd0, %rd1, %rd2, 30, 9;",
     [](u64 a, u64 b, u64) { return (b & ~(u64{0x1FF} << 30)) | (a & 0x1FF) << 30; }},
    {"lop3.b32 %r0, %r1, %r2, %r3, 0xE8;", [](u64 a, u64 b, u64 c) { return Of(U32((a & b) | (a & c) | (b & c))); }},
    {"prmt.b32 %r0, %r1, %r2, 0x7531;",
     [](u64 a, u64 b, u64) {
       return (a >> 8 & 0xFF) | (a >> 24 & 0xFF) << 8 | (b >> 8 & 0xFF) << 16 | (b >> 24 & 0xFF) << 24;
     }},
    {"shf.l.wrap.b32 %r0, %r1, %r2, %r3;",
     [](u64 a, u64 b, u64 c) { return Of(U32(((u64{U32(b)} << 32 | U32(a)) << (c & 31)) >> 32)); }},
    {"shf.r.wrap.b32 %r0, %r1, %r2, %r3;",
     [](u64 a, u64 b, u64 c) { return Of(U32((u64{U32(b)} << 32 | U32(a)) >> (c & 31))); }},
    {"setp.lt.s32 %p0, %r1, %r2;", [](u64 a, u64 b, u64) { return Of(S32(a) < S32(b)); }},
    {"setp.ge.u64 %p0, %rd1, %rd2;", [](u64 a, u64 b, u64) { return Of(a >= b); }},
    {"setp.ne.s16 %p0, %rs1, %rs2;", [](u64 a, u64 b, u64) { return Of(S16(a) != S16(b)); }},
    {"setp.gt.s32 %p1, %r1, %r2; selp.b32 %r0, %r1, %r3, %p1;",
     [](u64 a, u64 b, u64 c) { return Of(S32(a) > S32(b) ? U32(a) : U32(c)); }},
    {"setp.gt.s32 %p1, %r1, 0; setp.gt.s32 %p2, %r2, 0; and.pred %p3, %p1, %p2; not.pred %p0, %p3;",
     [](u64 a, u64 b, u64) { return Of(!(S32(a) > 0 && S32(b) > 0)); }},
    {"mov.b64 {%r3, %r2}, %rd1; mov.b64 %rd0, {%r2, %r3};", [](u64 a, u64, u64) { return a >> 32 | a << 32; }},
    {"cvt.s64.s32 %rd0, %r1;", [](u64 a, u64, u64) { return Of(int64_t{S32(a)}); }},
    {"cvt.u64.u32 %rd0, %r1;", [](u64 a, u64, u64) { return u64{U32(a)}; }},
    {"cvt.s32.s8 %r0, %r1;", [](u64 a, u64, u64) { return Of(int32_t{static_cast<int8_t>(a)}); }},
    {"cvt.u16.u32 %rs0, %r1;", [](u64 a, u64, u64) { return Of(U16(a)); }},
    {"@%p7 bra $Skip; add.s32 %r0, %r1, 1; bra.uni $End; $Skip: add.s32 %r0, %r1, -1; $End:",
     [](u64 a, u64, u64) { return Of(U32(a) + (S32(a) < 0 ? -1u : 1u)); }},
};

const std::vector<OpCase> kFloatCases = {
    {"add.rn.f32 %f0, %f1, %f2;", [](u64 a, u64 b, u64) { return Of(F(a) + F(b)); }},
    {"sub.f32 %f0, %f1, %f2;", [](u64 a, u64 b, u64) { return Of(F(a) - F(b)); }},
    {"mul.rn.f32 %f0, %f1, %f2;", [](u64 a, u64 b, u64) { return Of(F(a) * F(b)); }},
    {"fma.rn.f32 %f0, %f1, %f2, %f3;", [](u64 a, u64 b, u64 c) { return Of(std::fma(F(a), F(b), F(c))); }},
    {"div.rn.f32 %f0, %f1, %f2;", [](u64 a, u64 b, u64) { return Of(F(a) / F(b)); }},
    {"sqrt.rn.f32 %f0, %f1;", [](u64 a, u64, u64) { return Of(std::sqrt(F(a))); }},
    {"rcp.rn.f32 %f0, %f1;", [](u64 a, u64, u64) { return Of(1 / F(a)); }},
    {"neg.f32 %f0, %f1;", [](u64 a, u64, u64) { return (a & 0xFFFFFFFF) ^ 0x80000000; }},
    {"abs.f32 %f0, %f1;", [](u64 a, u64, u64) { return a & 0x7FFFFFFF; }},
    {"min.f32 %f0, %f1, %f2;", [](u64 a, u64 b, u64) { return Minimum(a, b); }},
    {"max.f32 %f0, %f1, %f2;", [](u64 a, u64 b, u64) { return Maximum(a, b); }},
    {"max.NaN.f32 %f0, %f1, %f2;",
     [](u64 a, u64 b, u64) { return F(a) != F(a) || F(b) != F(b) ? 0x7FFFFFFF : Maximum(a, b); }},
    {"setp.lt.f32 %p0, %f1, %f2;", [](u64 a, u64 b, u64) { return Of(F(a) < F(b)); }},
    {"setp.ltu.f32 %p0, %f1, %f2;", [](u64 a, u64 b, u64) { return Of(!(F(a) >= F(b))); }},
    {"setp.neu.f32 %p0, %f1, %f2;", [](u64 a, u64 b, u64) { return Of(F(a) != F(b)); }},
    {"setp.nan.f32 %p0, %f1, %f2;", [](u64 a, u64 b, u64) { return Of(F(a) != F(a) || F(b) != F(b)); }},
    {"add.f64 %fd0, %fd1, %fd2;", [](u64 a, u64 b, u64) { return Of(D(a) + D(b)); }},
    {"mul.f64 %fd0, %fd1, %fd2;", [](u64 a, u64 b, u64) { return Of(D(a) * D(b)); }},
    {"fma.rn.f64 %fd0, %fd1, %fd2, %fd3;", [](u64 a, u64 b, u64 c) { return Of(std::fma(D(a), D(b), D(c))); }},
    {"div.rn.f64 %fd0, %fd1, %fd2;", [](u64 a, u64 b, u64) { return Of(D(a) / D(b)); }},
    {"sqrt.rn.f64 %fd0, %fd1;", [](u64 a, u64, u64) { return Of(std::sqrt(D(a))); }},
    {"cvt.f64.f32 %fd0, %f1;", [](u64 a, u64, u64) { return Of(double{F(a)}); }},
    {"cvt.rn.f32.f64 %f0, %fd1;", [](u64 a, u64, u64) { return Of(static_cast<float>(D(a))); }},
    {"cvt.rn.f32.s32 %f0, %r1;", [](u64 a, u64, u64) { return Of(static_cast<float>(S32(a))); }},
    {"cvt.rn.f32.u64 %f0, %rd1;", [](u64 a, u64, u64) { return Of(static_cast<float>(a)); }},
    {"cvt.rni.s32.f32 %r0, %f1;",
     [](u64 a, u64, u64) { return Of(U32(Clamped(F(a), std::nearbyint(F(a)), INT32_MIN, INT32_MAX))); }},
    {"cvt.rzi.s32.f32 %r0, %f1;",
     [](u64 a, u64, u64) { return Of(U32(Clamped(F(a), std::trunc(F(a)), INT32_MIN, INT32_MAX))); }},
    {"cvt.rzi.u32.f32 %r0, %f1;",
     [](u64 a, u64, u64) { return Of(U32(Clamped(F(a), std::trunc(F(a)), 0, UINT32_MAX))); }},
    {"cvt.rmi.f32.f32 %f0, %f1;", [](u64 a, u64, u64) { return Of(std::floor(F(a))); }},
    {"cvt.rn.bf16.f32 %rs0, %f1;", [](u64 a, u64, u64) { return Bf16Of(U32(a)); }},
    {"cvt.rn.f16.f32 %rs0, %f1;", [](u64 a, u64, u64) { return HalfOf(F(a)); }},
    {"cvt.rn.bf16x2.f32 %r0, %f1, %f2;", [](u64 a, u64 b, u64) { return Bf16Of(U32(a)) << 16 | Bf16Of(U32(b)); }},
    {"cvt.f32.bf16 %f0, %rs1;", [](u64 a, u64, u64) { return Of(F(a << 16)); }},
    {"cvt.f32.f16 %f0, %rs1;", [](u64 a, u64, u64) { return Of(FromHalf(a)); }},
    {"add.f16 %rs0, %rs1, %rs2;", [](u64 a, u64 b, u64) { return HalfOf(FromHalf(a) + FromHalf(b)); }},
    {"mul.bf16 %rs0, %rs1, %rs2;", [](u64 a, u64 b, u64) { return Bf16Of(U32(Of(F(a << 16) * F(b << 16)))); }},
    {"mov.f32 %f0, 0f3FC00000;", [](u64, u64, u64) { return Of(1.5f); }},
    {"add.f64 %fd0, %fd1, 0d3FF8000000000000;", [](u64 a, u64, u64) { return Of(D(a) + 1.5); }},
};

std::vector<SnippetInput> Inputs() {
  std::mt19937_64 rng(7);
  std::vector<uint64_t> special = {0,
                                   1,
                                   2,
                                   31,
                                   32,
                                   33,
                                   0x7F,
                                   0x80,
                                   0xFF,
                                   0x7FFF,
                                   0x8000,
                                   0xFFFF,
                                   0x7FFFFFFF,
                                   0x80000000,
                                   0xFFFFFFFF,
                                   0x3F800000,
                                   0xBF800000,
                                   0x40200000 /* 2.5 */,
                                   0x7F800000,
                                   0xFF800000,
                                   0x7FC00000,
                                   0x00000001,
                                   0x807FFFFF,
                                   0x4F000000 /* 2^31 */,
                                   0xCF000000,
                                   0x4F800000,
                                   0x3F808000 /* between two bf16 */,
                                   0x3F818000,
                                   0x33000000,
                                   0x477FF000 /* to f16's infinity */,
                                   0x7FFFFFFFFFFFFFFF,
                                   0x8000000000000000,
                                   ~uint64_t{0},
                                   0x3FF0000000000000,
                                   0x7FF0000000000000,
                                   0x7FF8000000000000,
                                   0x0000000000000001};
  std::vector<SnippetInput> inputs;
  for (uint64_t a : special) {
    for (uint64_t b : special) inputs.push_back({a, b, special[rng() % special.size()]});
  }
  for (int i = 0; i < 3000; ++i) {
    inputs.push_back({rng(), rng(), rng()});
    // Floats of like size, and small integers.
    const auto float_bits = [&] {
      return Of(std::ldexp(static_cast<float>(static_cast<int32_t>(rng())), static_cast<int>(rng() % 40) - 50));
    };
    inputs.push_back({float_bits(), float_bits(), float_bits()});
  }
  return inputs;
}

void ExpectAll(const std::vector<OpCase>& cases) {
  const std::vector<SnippetInput> inputs = Inputs();
  for (const OpCase& op : cases) {
    const std::vector<uint64_t> got = RunSnippet(op.code, inputs, 1);
    for (size_t i = 0; i < inputs.size(); ++i) {
      const uint64_t want = op.want(inputs[i].a, inputs[i].b, inputs[i].c);
      ASSERT_EQ(got[i], want) << op.code << std::hex << " of 0x" << inputs[i].a << ", 0x" << inputs[i].b << ", 0x"
                              << inputs[i].c << ": 0x" << got[i] << ", want 0x" << want;
    }
  }
}

TEST(PtxOpcodeTest, IntegersAgreeWithTheHost) { ExpectAll(kIntegerCases); }
TEST(PtxOpcodeTest, FloatsAgreeWithTheHost) { ExpectAll(kFloatCases); }

TEST(PtxOpcodeTest, E4M3RoundsToTheNearestCode) {
  // Every code comes back, and what lies between two codes goes to the nearer, on a tie to the even one.
  std::vector<SnippetInput> codes;
  for (uint64_t code = 0; code < 256; ++code) codes.push_back({code | code << 8, 0, 0});
  const auto halves = RunSnippet("cvt.rn.f16x2.e4m3x2 %r0, %rs1;", codes, 1);
  std::vector<float> values;
  for (uint64_t half : halves) values.push_back(FromHalf(half));
  std::vector<SnippetInput> inputs;
  std::vector<uint64_t> want;
  for (int code = 0; code < 0x7E; ++code) {
    const float low = values[code], high = values[code + 1], middle = (low + high) / 2;
    for (float x : {low, std::nextafter(middle, low), middle, std::nextafter(middle, high)}) {
      inputs.push_back({Of(x), Of(-x), 0});
      const int rounded = x < middle || (x == middle && code % 2 == 0) ? code : code + 1;
      want.push_back(static_cast<uint64_t>(rounded) << 8 | (rounded | 0x80));
    }
  }
  inputs.push_back({Of(1e9f), Of(-INFINITY), 0});
  want.push_back(0x7EFE);
  EXPECT_EQ(RunSnippet("cvt.rn.satfinite.e4m3x2.f32 %rs0, %f1, %f2;", inputs, 1), want);
}

TEST(PtxOpcodeTest, WhatIsNotKnownIsNamed) {
  for (const char* code : {"ex2.approx.f32 %f0, %f1;", "add.ftz.f32 %f0, %f1, %f2;", "tanh.approx.f32 %f0, %f1;",
                           "add.rz.f32 %f0, %f1, %f2;", "bar.sync 1;", "wgmma.fence.sync.aligned;",
                           "call (%r0), f, (%r1);", "div.full.f32 %f0, %f1, %f2;", "cvt.sat.f32.f32 %f0, %f1;"}) {
    try {
      RunSnippet(code, {{1, 2, 3}}, 1);
      ADD_FAILURE() << code << " was executed";
    } catch (const UnsupportedPtx& error) {
      const std::string opcode(
          code, std::strchr(code, ' ') != nullptr ? std::strchr(code, ' ') - code : std::strlen(code) - 1);
      EXPECT_NE(std::string(error.what()).find(opcode.substr(0, opcode.find(';'))), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace tokenferry::fakegpu

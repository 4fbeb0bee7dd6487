// Instructions in which the lanes of a warp take part together, and those on memory, against the host: shuffles, votes,
// reductions, atomics, ldmatrix and mma. Random inputs of a fixed seed.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/substitute.h"
#include "tests/fakegpu/snippet.h"

namespace tokenferry::fakegpu {
namespace {

constexpr int kLanes = 32, kBlock = 64, kSize = 40 * kBlock;  // threads; whole blocks, so that warps are full

std::vector<SnippetInput> RandomInputs(uint32_t seed) {
  std::mt19937_64 rng(seed);
  std::vector<SnippetInput> inputs(kSize);
  for (SnippetInput& in : inputs) in = {rng(), rng(), rng()};
  return inputs;
}

// The inputs of the warp that thread i belongs to.
const SnippetInput* WarpOf(const std::vector<SnippetInput>& inputs, int i) { return &inputs[i / kLanes * kLanes]; }

// As CUDA's documentation tells __shfl_*_sync with a width: which lane is read, -1: none, the lane keeps its own value.
int ShuffledFrom(const std::string& mode, int lane, int amount, int width) {
  const int begin = lane / width * width, at = lane - begin;
  if (mode == "up") return at >= amount ? lane - amount : -1;
  if (mode == "down") return at + amount < width ? lane + amount : -1;
  if (mode == "idx") return begin + amount % width;
  const int partner = lane ^ amount;  // bfly: of an earlier segment too, but of no later one
  return partner < begin + width ? partner : -1;
}

TEST(PtxWarpOpcodeTest, ShufflesReadTheLanesThatCudaSays) {
  const std::vector<SnippetInput> inputs = RandomInputs(1);
  for (const std::string mode : {"up", "down", "bfly", "idx"}) {
    for (int width = 1; width <= kLanes; width *= 2) {
      const int clamp = (kLanes - width) << 8 | (mode == "up" ? 0 : 31);
      const std::string code = absl::Substitute(
          "and.b32 %r2, %r2, 31; shfl.sync.$0.b32 %r18|%p1, %r1, %r2, $1, -1; selp.u32 %r17, 1, 0, %p1; "
          "mov.b64 %rd0, {%r18, %r17};",
          mode, clamp);
      const auto got = RunSnippet(code, inputs, 1);
      for (int i = 0; i < kSize; ++i) {
        const int from = ShuffledFrom(mode, i % kLanes, static_cast<int>(inputs[i].b & 31), width);
        const uint64_t value = U32(from < 0 ? inputs[i].a : WarpOf(inputs, i)[from].a);
        ASSERT_EQ(got[i], value | (from < 0 ? 0 : uint64_t{1} << 32))
            << mode << " of width " << width << ", thread " << i << ", amount " << (inputs[i].b & 31);
      }
    }
  }
}

TEST(PtxWarpOpcodeTest, VotesLookAtTheWholeWarp) {
  std::vector<SnippetInput> inputs = RandomInputs(2);
  for (int i = 0; i < 2 * kBlock; ++i) inputs[i].a = i < kBlock ? 1 : 0;  // some warps agree
  const auto ballot = [&](int i) {
    uint32_t mask = 0;
    for (int l = 0; l < kLanes; ++l) mask |= static_cast<uint32_t>(S32(WarpOf(inputs, i)[l].a) > 0) << l;
    return mask;
  };
  const auto got_ballot = RunSnippet("setp.gt.s32 %p1, %r1, 0; vote.sync.ballot.b32 %r0, %p1, -1;", inputs, 1);
  const auto got_all = RunSnippet("setp.gt.s32 %p1, %r1, 0; vote.sync.all.pred %p0, %p1, -1;", inputs, 1);
  const auto got_any = RunSnippet("setp.gt.s32 %p1, %r1, 0; vote.sync.any.pred %p0, %p1, -1;", inputs, 1);
  const auto got_uni = RunSnippet("setp.gt.s32 %p1, %r1, 0; vote.sync.uni.pred %p0, %p1, -1;", inputs, 1);
  for (int i = 0; i < kSize; ++i) {
    const uint32_t mask = ballot(i);
    ASSERT_EQ(got_ballot[i], mask) << i;
    ASSERT_EQ(got_all[i], mask == ~0u) << i;
    ASSERT_EQ(got_any[i], mask != 0) << i;
    ASSERT_EQ(got_uni[i], mask == 0 || mask == ~0u) << i;
  }
}

TEST(PtxWarpOpcodeTest, ReductionsAndMatchesOfTheWarp) {
  std::vector<SnippetInput> inputs = RandomInputs(3);
  for (int i = 0; i < kSize; ++i) inputs[i].b = inputs[i].b % 5;  // equal ones to match
  struct Reduction {
    const char* name;
    std::function<uint32_t(uint32_t, uint32_t)> fold;
  };
  const std::vector<Reduction> reductions = {
      {"add.u32", [](uint32_t x, uint32_t y) { return x + y; }},
      {"add.s32", [](uint32_t x, uint32_t y) { return x + y; }},
      {"min.u32", [](uint32_t x, uint32_t y) { return std::min(x, y); }},
      {"max.u32", [](uint32_t x, uint32_t y) { return std::max(x, y); }},
      {"min.s32", [](uint32_t x, uint32_t y) { return U32(std::min(S32(x), S32(y))); }},
      {"max.s32", [](uint32_t x, uint32_t y) { return U32(std::max(S32(x), S32(y))); }},
      {"and.b32", [](uint32_t x, uint32_t y) { return x & y; }},
      {"or.b32", [](uint32_t x, uint32_t y) { return x | y; }},
      {"xor.b32", [](uint32_t x, uint32_t y) { return x ^ y; }}};
  for (const Reduction& r : reductions) {
    const auto got = RunSnippet(absl::StrCat("redux.sync.", r.name, " %r0, %r1, -1;"), inputs, 1);
    for (int i = 0; i < kSize; ++i) {
      uint32_t want = U32(WarpOf(inputs, i)[0].a);
      for (int l = 1; l < kLanes; ++l) want = r.fold(want, U32(WarpOf(inputs, i)[l].a));
      ASSERT_EQ(got[i], want) << r.name << ", thread " << i;
    }
  }
  const auto matched = RunSnippet("match.any.sync.b32 %r0, %r2, -1;", inputs, 1);
  for (int i = 0; i < kSize; ++i) {
    uint32_t want = 0;
    for (int l = 0; l < kLanes; ++l) want |= static_cast<uint32_t>(WarpOf(inputs, i)[l].b == inputs[i].b) << l;
    ASSERT_EQ(matched[i], want) << i;
  }
}

// An atomic on memory that holds a, with the operands b and c: what was there, and what is there then.
struct AtomicCase {
  const char* code;  // after "atom.global.", without operands
  int bytes;
  std::function<uint64_t(uint64_t a, uint64_t b, uint64_t c)> after;
};

TEST(PtxWarpOpcodeTest, AtomicsReturnTheOldValueAndLeaveTheNew) {
  using u64 = uint64_t;
  const std::vector<AtomicCase> cases = {
      {"add.u32", 4, [](u64 a, u64 b, u64) { return u64{U32(a + b)}; }},
      {"add.u64", 8, [](u64 a, u64 b, u64) { return a + b; }},
      {"min.s32", 4, [](u64 a, u64 b, u64) { return u64{U32(std::min(S32(a), S32(b)))}; }},
      {"max.u32", 4, [](u64 a, u64 b, u64) { return u64{std::max(U32(a), U32(b))}; }},
      {"max.s64", 8, [](u64 a, u64 b, u64) { return u64(std::max(static_cast<int64_t>(a), static_cast<int64_t>(b))); }},
      {"min.u64", 8, [](u64 a, u64 b, u64) { return std::min(a, b); }},
      {"and.b32", 4, [](u64 a, u64 b, u64) { return u64{U32(a & b)}; }},
      {"or.b64", 8, [](u64 a, u64 b, u64) { return a | b; }},
      {"xor.b32", 4, [](u64 a, u64 b, u64) { return u64{U32(a ^ b)}; }},
      {"exch.b32", 4, [](u64, u64 b, u64) { return u64{U32(b)}; }},
      {"exch.b64", 8, [](u64, u64 b, u64) { return b; }},
      {"cas.b32", 4, [](u64 a, u64 b, u64 c) { return u64{U32(U32(a) == U32(b) ? c : a)}; }},
      {"cas.b64", 8, [](u64 a, u64 b, u64 c) { return a == b ? c : a; }},
      {"add.f32", 4, [](u64 a, u64 b, u64) {
         const float sum = F(a) + F(b);
         return sum != sum ? u64{0x7FFFFFFF} : u64{std::bit_cast<uint32_t>(sum)};
       }}};
  std::vector<SnippetInput> inputs = RandomInputs(4);
  for (int i = 0; i < kSize; i += 2) inputs[i].b = inputs[i].a;  // for cas
  for (const AtomicCase& c : cases) {
    const std::string name = c.code, bits = c.bytes == 4 ? "u32" : "u64";
    const std::string reg = c.bytes == 4 ? (name == "add.f32" ? "%f" : "%r") : "%rd";
    const bool swaps = name.substr(0, 3) == "cas";
    // The thread's own place in the results, which is rewritten with what the snippet returns.
    const std::string run = absl::Substitute("st.global.$0 [%rd11], $1; atom.global.$2 $3, [%rd11], $4$5;", bits,
                                             c.bytes == 4 ? "%r1" : "%rd1", name,
                                             absl::StrCat(reg, c.bytes == 4 && name == "add.f32" ? "9" : "18"),
                                             absl::StrCat(reg, "2"), swaps ? absl::StrCat(", ", reg, "3") : "");
    const std::string old_code = c.bytes == 8        ? "mov.b64 %rd0, %rd18;"
                                 : name == "add.f32" ? "mov.b32 %r0, %f9;"
                                                     : "mov.b32 %r0, %r18;";
    const auto old_values = RunSnippet(run + old_code, inputs, 1);
    const auto new_values =
        RunSnippet(run + absl::StrCat("ld.global.", bits, c.bytes == 8 ? " %rd0" : " %r0", ", [%rd11];"), inputs, 1);
    for (int i = 0; i < kSize; ++i) {
      const uint64_t before = c.bytes == 4 ? U32(inputs[i].a) : inputs[i].a;
      ASSERT_EQ(old_values[i], before) << name << ", thread " << i;
      ASSERT_EQ(new_values[i], c.after(inputs[i].a, inputs[i].b, inputs[i].c)) << name << ", thread " << i;
    }
  }
}

TEST(PtxWarpOpcodeTest, AtomicsOfAllThreadsOnOneWordLoseNothing) {
  const std::vector<SnippetInput> inputs = RandomInputs(5);
  const auto run = [&](const std::string& atomic, uint32_t first) {
    return RunSnippet(absl::Substitute("mov.u32 %r18, %tid.x; mov.u32 %r17, $0; setp.eq.u32 %p1, %r18, 0; "
                                       "@%p1 st.shared.u32 [shared], %r17; bar.sync 0; $1 [shared], %r1; bar.sync 0; "
                                       "ld.shared.u32 %r0, [shared];",
                                       first, atomic),
                      inputs, 7);
  };
  const auto sums = run("red.shared.add.u32", 3), largest = run("red.shared.max.u32", 0),
             bits = run("red.shared.and.b32", ~0u);
  for (int i = 0; i < kSize; ++i) {
    uint32_t sum = 3, max = 0, all = ~0u;
    for (int t = i / kBlock * kBlock; t < i / kBlock * kBlock + kBlock; ++t) {
      sum += U32(inputs[t].a);
      max = std::max(max, U32(inputs[t].a));
      all &= U32(inputs[t].a);
    }
    ASSERT_EQ(sums[i], sum);
    ASSERT_EQ(largest[i], max);
    ASSERT_EQ(bits[i], all);
  }
}

// A block's 64 threads fill 256 bytes of shared memory, 16 rows of 8 halves; every lane names one of the rows.
TEST(PtxWarpOpcodeTest, LdmatrixHandsOutRowsOfEightHalves) {
  const std::vector<SnippetInput> inputs = RandomInputs(6);
  const std::string fill =
      "mov.u32 %r18, %tid.x; shl.b32 %r18, %r18, 2; mov.u32 %r17, shared; add.s32 %r18, %r18, %r17; "
      "st.shared.u32 [%r18], %r1; bar.sync 0; and.b32 %r16, %r2, 15; shl.b32 %r16, %r16, 4; add.s32 %r17, %r17, %r16; ";
  for (const int count : {1, 2, 4}) {
    for (const bool transposed : {false, true}) {
      for (int wanted = 0; wanted < count; ++wanted) {
        static constexpr const char* kLists[] = {"", "{%r4}", "{%r4, %r5}", "", "{%r4, %r5, %r6, %r7}"};
        const std::string code =
            absl::StrCat(fill, "ldmatrix.sync.aligned.m8n8.x", count, transposed ? ".trans" : "", ".shared.b16 ",
                         kLists[count], ", [%r17]; mov.b32 %r0, %r", 4 + wanted, ";");
        const auto got = RunSnippet(code, inputs, 1);
        for (int i = 0; i < kSize; ++i) {
          const SnippetInput* const block = &inputs[i / kBlock * kBlock];
          // Row `row` of the matrix is the one that lane 8 wanted + row names.
          const auto element = [&](int row, int col) -> uint32_t {
            const auto at = static_cast<int>(WarpOf(inputs, i)[8 * wanted + row].b & 15);
            return U32(block[at * 4 + col / 2].a) >> (16 * (col % 2)) & 0xFFFF;
          };
          const int a = i % kLanes / 4, b = i % 4 * 2;
          const uint32_t want =
              transposed ? element(b, a) | element(b + 1, a) << 16 : element(a, b) | element(a, b + 1) << 16;
          ASSERT_EQ(got[i], want) << code << " thread " << i;
        }
      }
    }
  }
}

// Small whole numbers: every order of the sum gives the same bits. Fragments as the PTX ISA shows them.
TEST(PtxWarpOpcodeTest, MmaMultipliesTiles) {
  std::mt19937 rng(8);
  const auto bf16 = [](int x) { return std::bit_cast<uint32_t>(static_cast<float>(x)) >> 16; };
  constexpr int kWarps = kSize / kLanes;
  std::vector<SnippetInput> inputs(kSize);
  std::vector<std::vector<int>> want(kWarps);
  for (int w = 0; w < kWarps; ++w) {
    int a[16][16], b[16][8];
    for (auto& row : a)
      for (int& x : row) x = static_cast<int>(rng() % 17) - 8;
    for (auto& row : b)
      for (int& x : row) x = static_cast<int>(rng() % 17) - 8;
    for (int l = 0; l < kLanes; ++l) {
      const int group = l / 4, k = l % 4 * 2;
      const auto pair = [&](int row, int col) { return uint64_t{bf16(a[row][col]) | bf16(a[row][col + 1]) << 16}; };
      const auto column = [&](int row) { return uint64_t{bf16(b[row][group]) | bf16(b[row + 1][group]) << 16}; };
      inputs[w * kLanes + l] = {pair(group, k) | pair(group + 8, k) << 32,
                                pair(group, k + 8) | pair(group + 8, k + 8) << 32, column(k) | column(k + 8) << 32};
    }
    for (int row = 0; row < 16; ++row) {
      for (int col = 0; col < 8; ++col) {
        int sum = row % 8 * 4 + col / 2;  // what is added: the lane's number
        for (int i = 0; i < 16; ++i) sum += a[row][i] * b[i][col];
        want[w].push_back(sum);
      }
    }
  }
  for (const int upper : {0, 1}) {
    const std::string code = absl::Substitute(
        "mov.u32 %r18, %laneid; cvt.rn.f32.u32 %f4, %r18; mov.f32 %f5, %f4; mov.f32 %f6, %f4; mov.f32 %f7, %f4; "
        "mov.b64 {%r4, %r5}, %rd1; mov.b64 {%r6, %r7}, %rd2; mov.b64 {%r8, %r9}, %rd3; "
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f4, %f5, %f6, %f7}, {%r4, %r5, %r6, %r7}, {%r8, %r9}, "
        "{%f4, %f5, %f6, %f7}; mov.b32 %r18, %f$0; mov.b32 %r19, %f$1; mov.b64 %rd0, {%r18, %r19};",
        4 + 2 * upper, 5 + 2 * upper);
    const auto got = RunSnippet(code, inputs, 1);
    for (int i = 0; i < kSize; ++i) {
      const int row = i % kLanes / 4 + 8 * upper, col = i % 4 * 2;
      const std::vector<int>& tile = want[i / kLanes];
      ASSERT_EQ(F(got[i]), static_cast<float>(tile[row * 8 + col])) << "thread " << i;
      ASSERT_EQ(F(got[i] >> 32), static_cast<float>(tile[row * 8 + col + 1])) << "thread " << i;
    }
  }
}

}  // namespace
}  // namespace tokenferry::fakegpu

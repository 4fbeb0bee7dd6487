#include "core/host/isa.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

namespace tokenferry {
namespace {

constexpr Isa kAll[] = {Isa::kPortable, Isa::kNeon, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16};

uint32_t Bit(Isa isa) { return 1u << static_cast<int>(isa); }

TEST(IsaTest, NamesGoThereAndBack) {
  for (Isa isa : kAll) {
    const auto back = IsaFromName(IsaName(isa));
    ASSERT_TRUE(back.ok());
    EXPECT_EQ(*back, isa);
  }
  for (const char* name : {"", "AVX2", "avx", "avx512-bf16 ", "sse"}) {
    EXPECT_EQ(IsaFromName(name).status().code(), absl::StatusCode::kInvalidArgument) << name;
  }
}

TEST(IsaTest, BestIsTheHighestOfTheMask) {
  EXPECT_EQ(BestIsa(0), Isa::kPortable);
  EXPECT_EQ(BestIsa(Bit(Isa::kPortable) | Bit(Isa::kNeon)), Isa::kNeon);
  EXPECT_EQ(BestIsa(Bit(Isa::kPortable) | Bit(Isa::kAvx2)), Isa::kAvx2);
  uint32_t mask = 0;
  for (Isa isa : kAll) {
    mask |= Bit(isa);
    EXPECT_EQ(BestIsa(mask), isa);
  }
}

// A set is reported with all the sets before it on its architecture, so that the intersection over ranks has a best.
TEST(IsaTest, SupportedSetsAreAChain) {
  const uint32_t mask = SupportedIsas();
  EXPECT_TRUE(mask & Bit(Isa::kPortable));
  EXPECT_TRUE(!(mask & Bit(Isa::kAvx512Bf16)) || (mask & Bit(Isa::kAvx512)));
  EXPECT_TRUE(!(mask & Bit(Isa::kAvx512)) || (mask & Bit(Isa::kAvx2)));
  EXPECT_FALSE((mask & Bit(Isa::kNeon)) && (mask & Bit(Isa::kAvx2)));
}

#if defined(__x86_64__)
TEST(IsaTest, AgreesWithTheKernelsOpinion) {
  std::ifstream file("/proc/cpuinfo");
  std::string line, flags;
  while (flags.empty() && std::getline(file, line)) {
    if (line.rfind("flags", 0) == 0) flags = line + " ";
  }
  ASSERT_FALSE(flags.empty());
  const uint32_t mask = SupportedIsas();
  auto has = [&](const char* flag) { return flags.find(std::string(" ") + flag + " ") != std::string::npos; };
  EXPECT_EQ((mask & Bit(Isa::kAvx2)) != 0, has("avx2") && has("fma") && has("f16c"));
  EXPECT_TRUE(!(mask & Bit(Isa::kAvx512)) || (has("avx512f") && has("avx512bw") && has("avx512vl") && has("avx512dq")));
  EXPECT_TRUE(!(mask & Bit(Isa::kAvx512Bf16)) || (has("avx512_bf16")));
}
#endif

}  // namespace
}  // namespace tokenferry

#include "core/host/memory_info.h"

#include <gtest/gtest.h>

#include <cstring>
#include <memory>

namespace tokenferry {
namespace {

TEST(MemoryInfoTest, ResidentMemoryGrowsWithUse) {
  constexpr size_t kNumBytes = size_t{64} << 20;
  const auto before = ReadProcessMemory();
  ASSERT_TRUE(before.ok()) << before.status();
  EXPECT_GT(before->resident_bytes, 0);
  auto data = std::make_unique<char[]>(kNumBytes);
  std::memset(data.get(), 1, kNumBytes);
  const auto during = ReadProcessMemory();
  ASSERT_TRUE(during.ok());
  // The kernel's counters lag by some pages per CPU; other memory of the process may be returned meanwhile.
  EXPECT_GT(during->resident_bytes, before->resident_bytes + static_cast<int64_t>(kNumBytes) * 3 / 4);
  EXPECT_GE(during->peak_resident_bytes, during->resident_bytes);
  EXPECT_EQ(data[kNumBytes / 2], 1);
  data.reset();
  const auto after = ReadProcessMemory();
  ASSERT_TRUE(after.ok());
  EXPECT_GT(after->peak_resident_bytes, before->resident_bytes + static_cast<int64_t>(kNumBytes) * 3 / 4);
}

TEST(MemoryInfoTest, MachineHasMoreThanThisProcess) {
  const auto machine = ReadMachineMemory();
  const auto process = ReadProcessMemory();
  ASSERT_TRUE(machine.ok()) << machine.status();
  ASSERT_TRUE(process.ok());
  EXPECT_GT(machine->total_bytes, process->resident_bytes);
  EXPECT_GT(machine->available_bytes, 0);
  EXPECT_LE(machine->available_bytes, machine->total_bytes);
}

}  // namespace
}  // namespace tokenferry

#include "core/host/cgroup.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "core/host/memory_info.h"

namespace tokenferry {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMib = 1 << 20;

// A folder that looks like the root of a file system with /proc and cgroups.
class CgroupTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "cgroup-test-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    root_ = name;
  }
  void TearDown() override { fs::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    fs::create_directories(fs::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  void V2(const std::string& group, const std::string& mount_root = "/") {
    Write("/proc/self/cgroup", "0::" + group + "\n");
    Write("/proc/self/mountinfo", "22 1 0:20 / / rw - ext4 /dev/vda rw\n30 22 0:26 " + mount_root +
                                      " /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n");
  }
  CgroupLimits Read() const { return ReadCgroupLimits(root_); }

  std::string root_;
};

TEST_F(CgroupTest, NothingThereIsNoLimit) {
  EXPECT_EQ(Read().num_cpus, std::numeric_limits<double>::infinity());
  EXPECT_EQ(Read().available_bytes, CgroupLimits::kNoLimit);
  V2("/a");
  Write("/sys/fs/cgroup/a/cpu.max", "max 100000\n");
  Write("/sys/fs/cgroup/a/memory.max", "max\n");
  Write("/sys/fs/cgroup/a/memory.current", "1000\n");
  EXPECT_EQ(Read().num_cpus, std::numeric_limits<double>::infinity());
  EXPECT_EQ(Read().available_bytes, CgroupLimits::kNoLimit);
}

TEST_F(CgroupTest, TheSmallestLimitOfNestedGroupsCounts) {
  V2("/outer/middle/inner");
  Write("/sys/fs/cgroup/outer/cpu.max", "150000 100000\n");
  Write("/sys/fs/cgroup/outer/middle/cpu.max", "max 100000\n");
  Write("/sys/fs/cgroup/outer/middle/inner/cpu.max", "800000 200000\n");
  Write("/sys/fs/cgroup/outer/memory.max", std::to_string(100 * kMib) + "\n");
  Write("/sys/fs/cgroup/outer/memory.current", std::to_string(90 * kMib) + "\n");
  Write("/sys/fs/cgroup/outer/memory.stat", "anon 1\ninactive_file " + std::to_string(20 * kMib) + "\nactive_file " +
                                                std::to_string(10 * kMib) + "\nshmem 5\n");
  Write("/sys/fs/cgroup/outer/middle/inner/memory.max", std::to_string(70 * kMib) + "\n");
  Write("/sys/fs/cgroup/outer/middle/inner/memory.current", std::to_string(10 * kMib) + "\n");
  EXPECT_EQ(Read().num_cpus, 1.5);
  EXPECT_EQ(Read().available_bytes, 40 * kMib);  // outer: 100 - (90 - 30); inner: 60
  Write("/sys/fs/cgroup/outer/middle/inner/memory.max", "20971520\n");
  EXPECT_EQ(Read().available_bytes, 10 * kMib);
  Write("/sys/fs/cgroup/outer/middle/inner/memory.max", "1048576\n");  // lowered below what is used
  EXPECT_EQ(Read().available_bytes, 0);
}

TEST_F(CgroupTest, AContainerSeesItsOwnGroupOnly) {
  V2("/");  // with a namespace of its own
  Write("/sys/fs/cgroup/cpu.max", "50000 100000\n");
  EXPECT_EQ(Read().num_cpus, 0.5);
  V2("/docker/abc/job", "/docker/abc");  // without
  Write("/sys/fs/cgroup/job/cpu.max", "25000 100000\n");
  EXPECT_EQ(Read().num_cpus, 0.25);
  V2("/../../elsewhere");
  EXPECT_EQ(Read().num_cpus, 0.5);
}

TEST_F(CgroupTest, Version1HasAHierarchyPerController) {
  Write("/proc/self/cgroup", "9:name=systemd:/s\n4:memory:/job/step\n3:cpuset:/x\n2:cpu,cpuacct:/job\n0::/s\n");
  Write("/proc/self/mountinfo",
        "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
        "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
  Write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  Write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  Write("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "300000\n");
  Write("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n");
  Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  Write("/sys/fs/cgroup/memory/memory.usage_in_bytes", "123456\n");
  Write("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", std::to_string(64 * kMib) + "\n");
  Write("/sys/fs/cgroup/memory/job/memory.usage_in_bytes", std::to_string(60 * kMib) + "\n");
  Write("/sys/fs/cgroup/memory/job/memory.stat",
        "inactive_file 1\ntotal_inactive_file " + std::to_string(6 * kMib) + "\n");
  EXPECT_EQ(Read().num_cpus, 3);
  EXPECT_EQ(Read().available_bytes, 10 * kMib);
}

// The real thing, where this machine lets its user make a group.
TEST(RealCgroupTest, AQuotaIsSeen) {
  constexpr double kNumCpus = 0.7;
  constexpr int kSeen = 0, kNotSeen = 1, kNotPermitted = 2;
  const bool is_v1 = fs::exists("/sys/fs/cgroup/cpu/cpu.shares");
  const fs::path group =
      (is_v1 ? "/sys/fs/cgroup/cpu/tokenferry-test-" : "/sys/fs/cgroup/tokenferry-test-") + std::to_string(getpid());
  std::error_code error;
  if (!fs::create_directory(group, error)) GTEST_SKIP() << "no group can be made: " << error.message();
  const pid_t child = fork();  // this process stays in the group where it is
  if (child == 0) {
    const auto write = [&](const char* file, const char* text) {
      return static_cast<bool>(std::ofstream(group / file) << text << std::flush);
    };
    const bool entered = (is_v1 ? write("cpu.cfs_period_us", "100000") && write("cpu.cfs_quota_us", "70000")
                                : write("cpu.max", "70000 100000")) &&
                         write("cgroup.procs", "0");
    _exit(!entered ? kNotPermitted : ReadCgroupLimits().num_cpus <= kNumCpus ? kSeen : kNotSeen);
  }
  ASSERT_GT(child, 0);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  fs::remove(group, error);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == kNotPermitted) GTEST_SKIP() << "the group takes no quota or no process";
  EXPECT_EQ(WEXITSTATUS(status), kSeen);
}

TEST(RealCgroupTest, AvailableMemoryIsBounded) {
  const auto machine = ReadMachineMemory();
  ASSERT_TRUE(machine.ok());
  EXPECT_LE(AvailableMemory().value(), machine->total_bytes);
}

}  // namespace
}  // namespace tokenferry

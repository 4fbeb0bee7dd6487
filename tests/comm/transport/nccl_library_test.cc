// The library of NCCL that this machine has, if any: no GPU is needed to load it.
#include "comm/transport/nccl/nccl_library.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nccl.h>

#include <fstream>
#include <sstream>

namespace tokenferry {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string MappedFiles() {
  std::ifstream maps("/proc/self/maps");
  std::ostringstream text;
  text << maps.rdbuf();
  return text.str();
}

TEST(NcclLibrary, IsLoadedByWhoAsksForIt) {
  EXPECT_THAT(MappedFiles(), Not(HasSubstr("libnccl"))) << "a program must start where there is none";
  const absl::Status loaded = LoadNccl();
  if (!loaded.ok()) {
    EXPECT_EQ(loaded.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(loaded.message(), HasSubstr("LD_LIBRARY_PATH"));
    EXPECT_THAT(loaded.message(), Not(HasSubstr("\n")));
    GTEST_SKIP() << loaded.message();
  }
  EXPECT_THAT(MappedFiles(), HasSubstr("libnccl"));
  int version = 0;
  EXPECT_EQ(ncclGetVersion(&version), ncclSuccess);
  EXPECT_GE(version, 21400);
  EXPECT_THAT(ncclGetErrorString(ncclInvalidUsage), HasSubstr("invalid usage"));
}

}  // namespace
}  // namespace tokenferry

// How many seeds a randomised test takes.
#pragma once

#include <algorithm>
#include <cstdlib>

namespace tokenferry {

// `wanted`, or as few as environment variable TF_TEST_SEEDS says, but `least`: run.sh without --full and tools that
// slow kernels down a hundredfold take fewer.
inline int NumTestSeeds(int wanted, int least = 1) {
  const char* fewer = std::getenv("TF_TEST_SEEDS");
  return fewer == nullptr ? wanted : std::min(wanted, std::max(least, std::atoi(fewer)));
}

}  // namespace tokenferry

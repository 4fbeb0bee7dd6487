// The paths of the exchange, in one list. To add one: a folder that defines its PathInfo, and a line in each list here.
#pragma once

#include <cstdint>

namespace tokenferry {

enum class ExchangePath : uint8_t {
  kAuto,       // comm/tuning/exchange_choice.h
  kPeer,       // rows and outputs are read where they lie, in the memory of the rank that wrote them
  kAllToAllV,  // one packed message per peer: works everywhere, the reference
  kAllGather,  // everyone gets all rows
  kTwoLevel,   // one row per token and host over the wire
};

struct PathInfo;  // comm/exchange/path/path.h
extern const PathInfo kPeerPath, kTwoLevelPath, kAllToAllVPath, kAllGatherPath;
// Of two that are expected to be equally fast, kAuto takes the first.
inline constexpr const PathInfo* kExchangePaths[] = {&kPeerPath, &kTwoLevelPath, &kAllToAllVPath, &kAllGatherPath};

struct PathName {
  ExchangePath path;
  const char* name;
};
inline constexpr PathName kPathNames[] = {{ExchangePath::kAuto, "auto"},
                                          {ExchangePath::kPeer, "peer"},
                                          {ExchangePath::kAllToAllV, "alltoallv"},
                                          {ExchangePath::kAllGather, "allgather"},
                                          {ExchangePath::kTwoLevel, "two_level"}};

const PathInfo& InfoOf(ExchangePath path);  // of every path but kAuto
const char* ExchangePathName(ExchangePath path);

}  // namespace tokenferry

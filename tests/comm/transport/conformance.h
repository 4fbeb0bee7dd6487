// What every transport has to pass. Each function is one rank's part; all ranks of a group call it.
#pragma once

#include <string>

#include "comm/transport/transport.h"

namespace tokenferry {

struct ConformanceCase {
  std::string name;
  void (*body)(Transport&);
};
extern const ConformanceCase kConformanceCases[];
extern const int kNumConformanceCases;

// The same of Begin and Finish: memory of the transport's kind, on a device that it can move from.
struct DeviceConformanceCase {
  std::string name;
  void (*body)(Transport&, Device&);
};
extern const DeviceConformanceCase kDeviceConformanceCases[];
extern const int kNumDeviceConformanceCases;

// Data unique per (source, destination, position, round).
inline uint8_t ByteOf(int src, int dst, int64_t i, int round) {
  uint64_t x = static_cast<uint64_t>(src) * 1000003u + static_cast<uint64_t>(dst) * 10007u +
               static_cast<uint64_t>(i) * 2654435761u + static_cast<uint64_t>(round) * 97u;
  return static_cast<uint8_t>((x ^ (x >> 13) ^ (x >> 29)) & 0xFF);
}

// One transfer of bytes_of(src, dst) bytes between each pair, checked byte by byte.
void TransferAndCheck(Transport& transport, int round, int64_t (*bytes_of)(int src, int dst, int round));

}  // namespace tokenferry

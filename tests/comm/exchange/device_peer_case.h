// Exchanges by path peer on devices against path alltoallv on CPUs, with real products as experts.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "comm/exchange/exchange.h"
#include "core/moe/placement.h"

namespace tokenferry {

// A list of exchanges, the same on every rank, made from a seed: sizes, formats, placements, tokens, routings.
struct DevicePeerCases {
  struct Step {
    std::vector<int64_t> tokens;  // [R]
    int top_k = 1;
    int placement = 0;  // into `placements`
    bool tells_most_tokens = false;
    uint32_t seed = 0;  // of rows and routings
  };
  int num_experts = 1;
  ExchangeOptions options;
  std::vector<Placement> placements;
  std::vector<Step> steps;

  std::string ToString() const;
};
DevicePeerCases RandomDevicePeerCases(uint32_t seed, int num_ranks);

// One rank of a group on one device by one path.
class DevicePeerRank {
 public:
  // Path peer as devices take it, on whichever device; or alltoallv.
  enum class Path { kDevicePeer, kAllToAllV };
  static absl::StatusOr<std::unique_ptr<DevicePeerRank>> Create(Transport& transport, Device& device,
                                                                const DevicePeerCases& cases, Path path);

  // Collective. This rank's outputs, [T, H] as bytes.
  absl::StatusOr<std::vector<float>> Run(const DevicePeerCases::Step& step);
  // Uploads what a step needs, and enqueues it; the result is Read. A step may be enqueued many times, into a graph
  // too.
  void Prepare(const DevicePeerCases::Step& step);
  absl::Status Enqueue(const DevicePeerCases::Step& step);
  absl::Status Enqueue(const DevicePeerCases::Step& step, int64_t most_tokens);  // where the step says otherwise
  absl::StatusOr<std::vector<float>> Read(const DevicePeerCases::Step& step);

  Exchange& exchange() { return *exchange_; }
  Stream& stream() { return *stream_; }

 private:
  DevicePeerRank(Transport& transport, Device& device, const DevicePeerCases& cases)
      : transport_(transport), device_(device), cases_(cases) {}
  absl::Status Allocate();

  Transport& transport_;
  Device& device_;
  const DevicePeerCases& cases_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Exchange> exchange_;
  Buffer weights_, rows_, expert_idx_, weight_, out_;
  std::vector<Buffer> views_;  // by placement: of this rank's slots
};

// Collective: one list of exchanges, made from the seed, on both paths; outputs are compared bit for bit, and
// statistics.
void ExpectDevicePeerEqualsAllToAllV(Transport& transport, Device& device, uint32_t seed);

}  // namespace tokenferry

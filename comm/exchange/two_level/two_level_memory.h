// Where path two_level has its rows and outputs: each rank of a host, in a part of its own, the rows that it serves,
// the outputs of its experts, and behind these what came back to it. All ranks of the host read all parts. On CPUs that
// is the host's shared memory, in which the parts are one matrix; on GPUs each part is memory of a GPU that the others
// map, and what a rank needs of other parts it pulls first, each item once, behind its own.
//
// Who may write what when, two_level_exchange.cc says.
#pragma once

#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "comm/exchange/path/device_capacity.h"
#include "comm/exchange/path/path.h"
#include "comm/exchange/two_level/two_level_plan.h"
#include "comm/peer/peer_memory.h"

namespace tokenferry {

inline constexpr CallSite kStartTwoLevel{"start: peer memory"};

class TwoLevelMemory {
 public:
  virtual ~TwoLevelMemory() = default;

  // Room for so many rows and outputs in this rank's part, which keeps what it has. ResourceExhausted.
  virtual absl::Status Take(int64_t num_rows, int64_t num_outputs) = 0;
  // Of this rank's part.
  virtual char* rows() const = 0;
  virtual char* outputs() const = 0;

  // Items without gaps, to be read in operations that are enqueued later.
  struct Items {
    const char* first = nullptr;
    int64_t num = 0;
  };
  // Changes indices of rows (outputs) of any part, TwoLevelLayout's, into indices of the result. The parts must hold
  // them: flags say when. `num_own` is how many this rank's part holds.
  virtual absl::StatusOr<Items> ReadRows(Stream& stream, int64_t num_own, std::vector<int32_t>& rows) = 0;
  virtual absl::StatusOr<Items> ReadOutputs(Stream& stream, int64_t num_own,
                                            absl::Span<std::vector<int32_t>* const> outputs) = 0;

  virtual int64_t shared_bytes() const = 0;  // of the host's shared memory that this rank has taken
};

// `memory` is what the ranks of the host share, at TwoLevelLayout's places; it must outlive the result.
std::unique_ptr<TwoLevelMemory> CreateHostTwoLevelMemory(const PathContext& context, PeerMemory& memory,
                                                         const TwoLevelLayout& layout);

// Collective; the same status on every rank. Memory of the device for the largest exchange (ExchangeOptions::max_tokens
// and max_top_k), so that nothing is mapped later. FailedPrecondition where ranks cannot map each other's memory, or
// the transport does not move memory of the device.
absl::StatusOr<std::unique_ptr<TwoLevelMemory>> CreateDeviceTwoLevelMemory(const PathContext& context,
                                                                           const TwoLevelRoutes& routes,
                                                                           const TwoLevelLayout& layout);

// Bytes of the device's memory: rows as experts read them, own and pulled, and outputs.
struct DeviceTwoLevelLayout {
  int64_t rows = 0, outputs = 0;             // how many
  int64_t outputs_begin = 0, num_bytes = 0;  // whole pieces (MappedMemory)

  static DeviceTwoLevelLayout For(const DeviceCapacity& capacity, int64_t row_bytes, int64_t out_bytes);
};

}  // namespace tokenferry

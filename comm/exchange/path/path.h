// What a path of the exchange is: an object that moves rows and outputs, what it expects to send, and the memory that
// it may come to need. One folder each beside this one.
#pragma once

#include <memory>
#include <optional>

#include "comm/exchange/path/exchange_stats.h"
#include "comm/exchange/path/options.h"
#include "comm/exchange/path/path_costs.h"
#include "comm/plan/exchange_plan.h"
#include "comm/transport/topology.h"
#include "comm/transport/transport.h"
#include "core/moe/moe_types.h"
#include "core/moe/placement.h"

namespace tokenferry {

// What an exchange lends its path; it outlives the path.
struct PathContext {
  Transport& transport;
  Device& device;
  const ExchangeOptions& options;
  const Topology& topology;
  ExchangeStats& stats;  // the path counts rows and bytes per rank, and shared memory
};

// What a path does for Exchange (comm/exchange/exchange.h), which has the contracts of the calls. It has checked their
// order and their shapes, keeps the first error and takes the times.
class PathMover {
 public:
  virtual ~PathMover() = default;

  virtual absl::StatusOr<FloatMatrix> HomeRows(int64_t num_tokens) = 0;
  virtual absl::Status Plan(Stream& stream, const CallSite& site, const Routing& routing, const Placement& placement,
                            int64_t most_tokens) = 0;
  virtual const ExchangePlan* host_plan() const = 0;  // null: the plan lies on the device
  virtual absl::Status BeginDispatch(Stream& stream, const CallSite& site, ConstFloatMatrix home_rows) = 0;
  virtual absl::StatusOr<ExpertRows> FinishDispatch(Stream& stream, const CallSite& site) = 0;
  virtual absl::StatusOr<FloatMatrix> ExpertOut() = 0;
  virtual absl::Status BeginCombine(Stream& stream, const CallSite& site) = 0;
  virtual absl::Status FinishCombine(Stream& stream, const CallSite& site, MatrixView<const float> weight,
                                     MatrixView<float> out) = 0;
  // What has been counted on the device, added to `stats`. Synchronizes the stream.
  virtual absl::Status AddDeviceStats(Stream& stream, ExchangeStats& stats) const {
    static_cast<void>(stream), static_cast<void>(stats);
    return absl::OkStatus();
  }
};

struct PathInfo {
  ExchangePath path;
  // Collective; the same status on all ranks. FailedPrecondition, naming why, when these ranks cannot take the path.
  absl::StatusOr<std::unique_ptr<PathMover>> (*create)(const PathContext& context);
  // Of one rank. None: not a path for such a topology.
  std::optional<PathTraffic> (*traffic)(const ExchangeShape& shape, const Topology& topology);
  // Bytes of buffers, device memory and shared memory, on one rank: of those that are made at the start, and the most.
  int64_t (*start_bytes)(const WorstCase& worst);
  int64_t (*most_bytes)(const WorstCase& worst);
};

}  // namespace tokenferry

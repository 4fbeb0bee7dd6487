// Dispatch and combine: token rows to the ranks that own their experts, expert outputs back home.
//
// The plan says what moves (comm/plan/exchange_plan.h, a value built without I/O but for one count swap and one index
// swap); the exchange executes it. How is its path's (comm/exchange/path/path.h); every path gives the same bits.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "comm/exchange/path/path.h"

namespace tokenferry {

// One per rank; all ranks make the same calls in the same order: Plan, Dispatch, ExpertOut, Combine. HomeRows may come
// before. Dispatch and Combine may be called in two halves, with other work between them. One exchange has one plan
// under way; who wants more creates as many exchanges, each with its own buffers. Buffers grow to the largest exchange
// seen and are kept. After an error it refuses further calls with that error: the ranks may be in different places.
class Exchange {
 public:
  // Collective, the same status on all ranks, by options.path, which is not kAuto: that is CreateExchange's
  // (comm/tuning/exchange_choice.h). FailedPrecondition, naming why, when these ranks cannot take the path. `transport`
  // and `device` must outlive it.
  static absl::StatusOr<std::unique_ptr<Exchange>> Create(Transport& transport, Device& device,
                                                          const ExchangeOptions& options);
  // By a path of the caller's own, which stands for options.path.
  using MakePath = std::function<absl::StatusOr<std::unique_ptr<PathMover>>(const PathContext&)>;
  static absl::StatusOr<std::unique_ptr<Exchange>> Create(Transport& transport, Device& device,
                                                          const ExchangeOptions& options, const MakePath& make_path);

  // Where this rank may write the rows that it dispatches next: [num_tokens, H] of options.resident_dtype(), device
  // memory. A path that shares memory lets others read them here, so that Dispatch copies nothing. Not between a
  // Dispatch and its Combine; valid until the next HomeRows, and may be written again after each Combine.
  absl::StatusOr<FloatMatrix> HomeRows(int64_t num_tokens);

  // Collective. `routing` is of this rank's T >= 0 tokens (device memory); synchronizes the stream where the host makes
  // the plan. The calls up to Combine execute it. A token's experts are distinct. `most_tokens` of any rank, the same
  // on all: where the plan is made on the device, what launches cover; 0: options.max_tokens. InvalidArgument where
  // this rank has more.
  absl::Status Plan(Stream& stream, const CallSite& site, const Routing& routing, const Placement& placement,
                    int64_t most_tokens = 0);

  // The last Plan's, valid until the next Plan; null: the plan was made on the device.
  const ExchangePlan* host_plan() const { return path_->host_plan(); }

  // Collective. `rows` [T, H], device memory: f32, or bf16 where wire_dtype is not f32; HomeRows' or any other. They
  // must stay unchanged until Combine. The result is valid until the next Dispatch.
  absl::StatusOr<ExpertRows> Dispatch(Stream& stream, const CallSite& site, ConstFloatMatrix rows);
  // Its halves: what can be sent without waiting, and the rest. On path allgather the second does all.
  absl::Status BeginDispatch(Stream& stream, const CallSite& site, ConstFloatMatrix rows);
  absl::StatusOr<ExpertRows> FinishDispatch(Stream& stream, const CallSite& site);

  // Where the experts write: [max_selections, H] of options.output_dtype in ExpertRows' order, contiguous; device
  // memory of the exchange, undefined at first. After Dispatch; valid until the next Plan.
  absl::StatusOr<FloatMatrix> ExpertOut();

  // Collective. Takes what ExpertOut holds. out[t] = the sum over the token's selections, in increasing logical expert
  // index, starting from 0, of fma(weight, expert output widened to f32, sum): f32, [T, H], every row is written (a
  // token with no selection gets zeros). `weight` [T, K] is the Routing's.
  absl::Status Combine(Stream& stream, const CallSite& site, MatrixView<const float> weight, MatrixView<float> out);
  // Its halves. On path two_level the first only tells the other ranks of this host that outputs are there.
  absl::Status BeginCombine(Stream& stream, const CallSite& site);
  absl::Status FinishCombine(Stream& stream, const CallSite& site, MatrixView<const float> weight,
                             MatrixView<float> out);

  ExchangePath path() const { return stats_.path; }  // never kAuto
  // What has been counted up to now, after an error too. Where counters lie on the device, synchronizes the stream,
  // whose error it then returns.
  absl::StatusOr<ExchangeStats> stats(Stream& stream) const;

 private:
  class Watch;
  enum class Call : uint8_t { kPlan, kDispatch, kFinishDispatch, kCombine, kFinishCombine };

  Exchange(Transport& transport, Device& device, const ExchangeOptions& options);
  absl::Status Enter(Call call, const CallSite& site);

  Transport& transport_;
  Device& device_;
  const ExchangeOptions options_;
  const Topology topology_;
  ExchangeStats stats_;
  std::unique_ptr<PathMover> path_;
  Call next_ = Call::kPlan;
  int64_t num_tokens_ = 0;          // of the last Plan
  std::vector<int32_t> last_host_;  // scratch of CountBases
  absl::Status error_;
};

}  // namespace tokenferry

// Dispatch and combine: token rows to the ranks that own their experts, expert outputs back home.
//
// The plan says what moves (comm/plan/exchange_plan.h, a value built without I/O but for one count swap and one index
// swap); the exchange executes it. How is its path; every path gives the same bits.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/plan/exchange_plan.h"
#include "comm/plan/exchange_traffic.h"
#include "comm/transport/transport.h"
#include "core/device/growing_buffer.h"
#include "core/moe/moe_types.h"
#include "core/moe/placement.h"

namespace tokenferry {

enum class ExchangePath : uint8_t {
  kAuto,       // comm/tuning/exchange_choice.h
  kPeer,       // rows and outputs are read where they lie, in the memory of the rank that wrote them
  kAllToAllV,  // one packed message per peer: works everywhere, the reference
  kAllGather,  // everyone gets all rows
  kTwoLevel,   // one row per token and host over the wire
};
const char* ExchangePathName(ExchangePath path);  // "auto", "peer", "alltoallv", "allgather", "two_level"

// Of the combine on path two_level. Other paths are always exact.
enum class Reduction : uint8_t {
  kExact,  // each selection's output travels home: the same bits as every other path
  kNode,   // a host sums its own experts' outputs and sends one row per token: deterministic for a layout of ranks
};

struct ExchangeOptions {
  int64_t hidden = 0;
  // Of dispatched rows, rank-local ones too: kF32, kBF16 (each element rounded once), kF8E4M3 or kI8 (quantised with a
  // scale per 128 values, comm/ops/row_codec_ops.h). Quantised rows are widened to expert_dtype where they
  // arrive, or, where memory is shared, before they are published.
  DType wire_dtype = DType::kF32;
  DType expert_dtype = DType::kF32;  // of ExpertRows when wire_dtype is quantised: kF32 or kBF16; else it is wire_dtype
  // Of expert outputs, rank-local ones too, from where experts write them: kF32, or kBF16 (each element rounded once).
  DType output_dtype = DType::kF32;
  ExchangePath path = ExchangePath::kAuto;
  Reduction reduction = Reduction::kExact;
  // Sees, on rank 0, why kAuto took a path: links, predictions, choice. Given on all ranks or on none; then the log
  // sees it, at debug level, where links have to be measured anyway.
  std::function<void(const std::string&)> on_choice;
  // What buffers are sized for at creation; larger exchanges grow them. 0: nothing in advance.
  int64_t max_tokens = 0;  // of any rank, in one exchange
  int max_top_k = 0;
  int64_t max_peer_bytes = 0;  // path peer: most bytes of a rank's part; 0: no bound but the host's

  // Of ExpertRows and HomeRows: rows are read as they travelled, unless they were quantised.
  DType resident_dtype() const {
    return wire_dtype == DType::kF32 || wire_dtype == DType::kBF16 ? wire_dtype : expert_dtype;
  }
};

// Since creation, this rank. Rows and bytes count what leaves for each rank, this one included.
struct ExchangeStats {
  ExchangePath path = ExchangePath::kAllToAllV;
  int64_t num_exchanges = 0;                     // dispatches with their combines
  int64_t num_tokens = 0;                        // tokens routed at home
  int64_t num_selections = 0;                    // (token, expert) pairs of them
  std::vector<int64_t> dispatch_rows_per_rank;   // [R] rows sent, one per (token, rank)
  std::vector<int64_t> dispatch_bytes_per_rank;  // [R]
  std::vector<int64_t> combine_bytes_per_rank;   // [R] expert outputs sent back
  // What other ways of sending would have needed for these tokens, and the bytes of a row and of an output as they
  // travel here. bench/README.md defines the bases.
  RowBases bases;
  int64_t row_bytes = 0, output_bytes = 0;
  // [R] Seconds this rank waited in exchanges for each rank. Every wait (one transfer, or one kind of flag) counts
  // whole for the rank that came last, from when this rank began to wait until then; row `rank` of a matrix [R, R].
  // It names the next cause: on a path that passes on (allgather, two_level) that rank may have waited for another.
  std::vector<double> wait_seconds_per_rank;
  int64_t peak_peer_bytes = 0;  // of this rank's parts of shared memory; all else is the device's
  double plan_seconds = 0, dispatch_seconds = 0, combine_seconds = 0;

  ExchangeStats& operator+=(const ExchangeStats& other);  // of the same ranks and dtypes; keeps its path
};

// One per rank; all ranks make the same calls in the same order: Plan, Dispatch, ExpertOut, Combine. HomeRows may come
// before. Dispatch and Combine may be called in two halves, with other work between them. One exchange has one plan
// under way; who wants more creates as many exchanges, each with its own buffers. Buffers grow to the largest exchange
// seen and are kept. After an error it refuses further calls with that error: the ranks may be in different places.
class Exchange {
 public:
  virtual ~Exchange() = default;

  // Where this rank may write the rows that it dispatches next: [num_tokens, H] of options.resident_dtype(), device
  // memory. A path that shares memory lets others read them here, so that Dispatch copies nothing. Not between a
  // Dispatch and its Combine; valid until the next HomeRows, and may be written again after each Combine.
  absl::StatusOr<FloatMatrix> HomeRows(int64_t num_tokens);

  // Collective. `routing` is of this rank's T >= 0 tokens (device memory); synchronizes the stream where the host makes
  // the plan. The calls up to Combine execute it.
  absl::Status Plan(Stream& stream, const CallSite& site, const Routing& routing, const Placement& placement);

  // The last Plan's, valid until the next Plan; null: the plan was made on the device.
  const ExchangePlan* host_plan() const { return &plan_; }

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
  // What has been counted up to now, after an error too. Synchronizes the stream where counters lie on the device.
  absl::StatusOr<ExchangeStats> stats(Stream& stream) const;

 protected:
  // `transport` and `device` outlive it.
  Exchange(ExchangePath path, const Transport& transport, Device& device, const ExchangeOptions& options);

  // What a path does. Shapes have been checked; the caller keeps errors and times. `plan` is the last one, to be
  // replaced; its memory is reused.
  virtual absl::StatusOr<FloatMatrix> DoHomeRows(int64_t num_tokens);  // memory of this rank's own
  virtual absl::Status DoPlan(Stream& stream, const CallSite& site, const Routing& routing, const Placement& placement,
                              ExchangePlan& plan) = 0;
  virtual absl::Status DoBeginDispatch(Stream&, const CallSite&, const ExchangePlan&, ConstFloatMatrix) {
    return absl::OkStatus();
  }
  // What DoBeginDispatch has left.
  virtual absl::StatusOr<ExpertRows> DoDispatch(Stream& stream, const CallSite& site, const ExchangePlan& plan,
                                                ConstFloatMatrix rows) = 0;
  virtual absl::StatusOr<FloatMatrix> DoExpertOut(const ExchangePlan& plan) = 0;
  virtual absl::Status DoBeginCombine(Stream&, const CallSite&, const ExchangePlan&) { return absl::OkStatus(); }
  // What DoBeginCombine has left.
  virtual absl::Status DoCombine(Stream& stream, const CallSite& site, const ExchangePlan& plan,
                                 MatrixView<const float> weight, MatrixView<float> out) = 0;

  // What paths share. out[i] = rows[idx[i]] as rows travel, [num_rows, RowBytes(wire_dtype)].
  void PackRows(Stream& stream, ConstFloatMatrix rows, const int32_t* idx, int64_t num_rows, void* out) const;
  // Rows that have travelled, as experts read them: themselves, or widened in memory of this object.
  absl::StatusOr<const void*> WidenRows(Stream& stream, const void* rows, int64_t num_rows);
  // Dispatch's result: selection s reads rows[row_idx[s]], which are of resident_dtype().
  absl::StatusOr<ExpertRows> MakeExpertRows(Stream& stream, const RecvPlan& plan, const void* rows,
                                            const std::vector<int32_t>& row_idx);

  ExchangeStats stats_;  // paths count rows and bytes

 private:
  class Watch;
  enum class Call : uint8_t { kPlan, kDispatch, kFinishDispatch, kCombine, kFinishCombine };
  absl::Status Enter(Call call, const CallSite& site);

  const Transport& base_transport_;
  Device& device_;
  const Topology topology_;
  const int64_t hidden_;
  const DType wire_dtype_, resident_dtype_;
  Call next_ = Call::kPlan;
  std::vector<int32_t> last_host_;  // scratch of CountBases
  absl::Status error_;
  ExchangePlan plan_;
  ConstFloatMatrix dispatched_rows_;  // of the last BeginDispatch
  GrowingBuffer home_rows_{MemoryKind::kDevice, "exchange: rows at home"};
  GrowingBuffer wide_rows_{MemoryKind::kDevice, "exchange: widened rows"};
  GrowingBuffer row_idx_{MemoryKind::kDevice, "exchange: row of each selection"};
  GrowingBuffer slot_offsets_{MemoryKind::kDevice, "exchange: slot offsets"};
};

// Collective. Unimplemented for a path that is not there yet; FailedPrecondition, naming why, for one that these ranks
// cannot take. `transport` and `device` must outlive it.
absl::StatusOr<std::unique_ptr<Exchange>> CreateExchange(Transport& transport, Device& device,
                                                         const ExchangeOptions& options);

}  // namespace tokenferry

// One exchange there and back over a problem, timed by phase. bench/README.md defines the phases.
#pragma once

#include <memory>
#include <vector>

#include "bench/alltoall/problem.h"
#include "bench/measure/stream_timer.h"
#include "comm/exchange/exchange.h"

namespace tokenferry {

// This rank's seconds in each phase of one round trip, by a StreamTimer.
struct PhaseSeconds {
  double plan = 0;
  double dispatch = 0;
  double expert_read = 0;
  double combine = 0;
  double round_trip() const { return plan + dispatch + expert_read + combine; }
};

// For the reads alone, when all ranks begin together: until this rank's end, or on a GPU what they take.
struct LocalReadSeconds {
  double meet = 0;  // all ranks meet, and nothing else; 0 on a GPU
  double read = 0;  // the same, and reads
};

// One per rank and exchange; everything must outlive it. Between the expert side's reading and the combine all ranks
// meet, write the experts' outputs and meet again: none of it is timed, since it is the work of experts.
class RoundTrip {
 public:
  // `reduction`: the exchange's.
  RoundTrip(Transport& transport, Device& device, Exchange& exchange, Reduction reduction, BenchProblem& problem)
      : transport_(transport), device_(device), exchange_(exchange), reduction_(reduction), problem_(problem) {}

  // Collective. Allocates what does not belong to the exchange, and writes the rows where it wants them.
  absl::Status Prepare();

  // Collective. DataLoss when the rows that the expert side reads are not those of the first run.
  absl::StatusOr<PhaseSeconds> Run();

  // Collective. A run whose results are compared with the plain meaning; the error of any rank is that of all.
  absl::Status Verify();

  // Collective: reads the same number of rows, in the same order, from this rank's own memory. The clock starts before
  // the ranks meet: where they share a core, each one's time has the others' reads in it, as a round trip has.
  absl::StatusOr<LocalReadSeconds> LocalRead();

 private:
  void ReadRows(const ExpertRows& rows);           // enqueues
  absl::Status KeepOrder(const ExpertRows& rows);  // in which LocalRead reads

  Transport& transport_;
  Device& device_;
  Exchange& exchange_;
  const Reduction reduction_;
  BenchProblem& problem_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<StreamTimer> timer_;
  FloatMatrix home_rows_;
  Buffer slot_factor_, checksum_;
  int64_t num_selections_ = -1;  // of the first run
  uint64_t first_checksum_ = 0;
  // For LocalRead: of the last run's plan.
  std::vector<int32_t> row_idx_;
  int64_t num_recv_rows_ = 0;
  Buffer local_rows_, local_idx_;
};

// A clock for durations, in seconds.
double MonotonicSeconds();

}  // namespace tokenferry

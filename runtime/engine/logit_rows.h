// The logits of a step's rows, and what becomes of them. A CPU's lie where the host reads them. A GPU's stay in its
// memory: of each row the host is given the summary from which a token can be chosen (runtime/ops/scan_logits.h), and
// only those rows whole of which somebody asks for more.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "core/device/device.h"
#include "core/formats/tensor.h"
#include "runtime/engine/sampler.h"
#include "runtime/engine/sequence_table.h"
#include "runtime/engine/step_plan.h"

namespace tokenferry {

// One per engine; the order of calls for a step is Want, what computes Rows, Scan, Fetch, Stream::Synchronize, Take.
class LogitRows {
 public:
  // Device memory that Create allocates: on a CPU the host's, and on a GPU its own, without what the host keeps beside.
  static int64_t NumBytes(DeviceKind device, int64_t vocab_size, int64_t num_rows);

  // Of at most `num_rows` rows at a time.
  static absl::StatusOr<LogitRows> Create(Device& device, int64_t vocab_size, int64_t num_rows);

  // What row i is for: the token behind `token` of the entry. Both pointers must live until Take.
  struct Row {
    const StepEntry* entry = nullptr;
    const SequenceTable::Sequence* sequence = nullptr;
    int64_t token = 0;
  };
  // The rows that Take will be asked for, from the first on; what lies behind them is nobody's.
  void Want(Stream& stream, std::vector<Row> rows);

  // Rows [begin, begin + num_rows) of the logits, f32: device memory that an operation writes.
  MatrixView<float> Rows(int64_t begin, int64_t num_rows) const;
  // Behind what computes them. The same arguments do the same work, so that it may be part of a graph.
  void Scan(Stream& stream, int64_t begin, int64_t num_rows);
  // Behind that, and never part of a graph: rows that are wanted whole.
  void Fetch(Stream& stream);

  // What is wanted of row `row`, into the entry's result. What is wrong with the logits is the sequence's error: an
  // answer with an error has nothing else.
  void Take(int64_t row, EntryResult& result);

 private:
  int NumCandidates(const Row& row) const;
  absl::Status TryTake(int64_t row_idx, EntryResult& result);

  bool is_on_host_ = false;  // then there are no summaries
  int64_t vocab_size_ = 0, num_rows_ = 0;
  Buffer logits_, host_logits_;        // [num_rows, V]; those of the host where it cannot read the first
  Buffer num_candidates_, summaries_;  // [num_rows] of device and host
  std::vector<Row> rows_;
  std::vector<int32_t> wanted_;  // [rows_] NumCandidates of each; 0: the row whole
  Sampler sampler_;
};

}  // namespace tokenferry

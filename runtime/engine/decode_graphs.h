// Decode steps as graphs: one per number of rows, the same on all ranks, so that the host enqueues a step by one call.
#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "absl/functional/function_ref.h"
#include "core/device/device.h"

namespace tokenferry {

class DecodeGraphs {
 public:
  // Rows of the graph for a step of which no rank has more than `most_tokens`, at least 1: 1, 2, 4, ..
  static int64_t RowsFor(int64_t most_tokens);

  // Columns of the block table of a step of `num_rows` rows whose longest sequence has `num_blocks` of at most `most`
  // blocks. An argument of the graph, which is made anew when this grows: to powers of two, so that this is seldom, and
  // not to `most` at once, since every step uploads the whole table.
  int64_t TableColumns(int64_t num_rows, int64_t num_blocks, int64_t most);

  // Enqueues the step of `num_rows` rows, which `enqueue` does with arguments that are always the same for so many
  // rows, while TableColumns says the same. The first time it is called for itself, so that whatever grows has grown;
  // the second time it is captured; from then on its graph is launched, until a buffer of the device has been freed,
  // which it may have used.
  absl::Status Run(Device& device, Stream& stream, int64_t num_rows, absl::FunctionRef<absl::Status()> enqueue);

  // Launches of graphs that were captured by an earlier step.
  int64_t num_replays() const { return num_replays_; }

 private:
  struct Step {
    int64_t num_frees = -1;  // of the device, when `enqueue` had been called; -1: not yet
    std::unique_ptr<Graph> graph;
    int64_t table_columns = 0;
  };
  std::map<int64_t, Step> steps_;  // by number of rows
  int64_t num_replays_ = 0;
};

}  // namespace tokenferry

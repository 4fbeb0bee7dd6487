// Decode steps as graphs: one per number of rows, the same on all ranks, and per width of the block table, so that the
// host enqueues a step by one call.
#pragma once

#include <compare>
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

  // Columns of the block table of a step whose longest sequence has `num_blocks` of at most `most` blocks: powers of
  // two, so that there are few graphs; not `most` at once, since every step uploads the whole table, and attention
  // launches blocks of threads for as many keys.
  static int64_t TableColumns(int64_t num_blocks, int64_t most);

  struct Shape {
    int64_t num_rows = 0, table_columns = 0;
    friend auto operator<=>(const Shape&, const Shape&) = default;
  };
  // Enqueues a step, which `enqueue` does with arguments that are always the same for a shape. The first time it is
  // called for itself, so that whatever grows has grown; the second time it is captured; from then on its graph is
  // launched, until a buffer of the device has been freed, which it may have used.
  absl::Status Run(Device& device, Stream& stream, Shape shape, absl::FunctionRef<absl::Status()> enqueue);

  // Launches of graphs that were captured by an earlier step.
  int64_t num_replays() const { return num_replays_; }

 private:
  struct Step {
    int64_t num_frees = -1;  // of the device, when `enqueue` had been called; -1: not yet
    std::unique_ptr<Graph> graph;
  };
  std::map<Shape, Step> steps_;
  int64_t num_replays_ = 0;
};

}  // namespace tokenferry

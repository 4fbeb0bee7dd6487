#include "runtime/engine/decode_graphs.h"

#include <algorithm>

namespace tokenferry {

int64_t DecodeGraphs::RowsFor(int64_t most_tokens) {
  int64_t rows = 1;
  while (rows < most_tokens) rows *= 2;
  return rows;
}

int64_t DecodeGraphs::TableColumns(int64_t num_blocks, int64_t most) { return std::min(RowsFor(num_blocks), most); }

absl::Status DecodeGraphs::Run(Device& device, Stream& stream, Shape shape, absl::FunctionRef<absl::Status()> enqueue) {
  Step& step = steps_[shape];
  if (step.num_frees != device.num_frees()) {
    step.graph.reset();
    TF_RETURN_IF_ERROR(enqueue());
    step.num_frees = device.num_frees();
    return absl::OkStatus();
  }
  if (step.graph != nullptr) {
    ++num_replays_;
  } else {
    TF_RETURN_IF_ERROR(stream.BeginCapture());
    const absl::Status enqueued = enqueue();
    auto graph = stream.EndCapture();
    TF_RETURN_IF_ERROR(enqueued);
    TF_RETURN_IF_ERROR(graph.status());
    step.graph = *std::move(graph);
  }
  stream.LaunchGraph(*step.graph);
  return absl::OkStatus();
}

}  // namespace tokenferry

#include "runtime/engine/step_trace.h"

#include <algorithm>

#include "core/check.h"

namespace tokenferry {

StepTrace::StepTrace(const ModelSpec& model, const std::vector<const StepEntry*>& mine,
                     std::vector<EntryResult>& results) {
  int64_t begin = 0;
  for (size_t i = 0; i < mine.size(); ++i) {
    const auto n = static_cast<int64_t>(mine[i]->tokens.size());
    if (mine[i]->trace == Wanted::kYes) {
      EntryResult& r = results[i];
      r.hidden_states.resize((model.num_layers(mine[i]->stack) + 1) * n * model.hidden_size);
      r.router_logits.resize(model.num_moe_layers(mine[i]->stack) * n * model.moe.num_experts);
      r.selected_keys.resize(model.num_layers(mine[i]->stack) * n * model.num_selected_keys());
      entries_.push_back({begin, begin + n, r.hidden_states.data(), r.router_logits.data(), r.selected_keys.data()});
    }
    begin += n;
  }
}

void StepTrace::Observe(Stream& stream, LayerObserver& observer) const {
  if (entries_.empty()) return;
  observer.on_hidden = [this, &stream](int layer, int64_t first_token, MatrixView<const float> hidden) {
    TakeHidden(stream, layer, first_token, hidden);
  };
  observer.on_selected = [this, &stream](int layer, int64_t first_token, MatrixView<const int32_t> selected) {
    TakeSelected(stream, layer, first_token, selected);
  };
}

void StepTrace::TakeHidden(Stream& stream, int layer, int64_t first_token, MatrixView<const float> hidden) const {
  Take(stream, &Entry::hidden_states, layer, first_token, hidden);
}

void StepTrace::TakeRouterLogits(Stream& stream, int moe_idx, int64_t first_token,
                                 MatrixView<const float> router_logits) const {
  Take(stream, &Entry::router_logits, moe_idx, first_token, router_logits);
}

void StepTrace::TakeSelected(Stream& stream, int layer, int64_t first_token, MatrixView<const int32_t> selected) const {
  Take(stream, &Entry::selected_keys, layer, first_token, selected);
}

// Into matrix `matrix_idx` of those that an entry has one after the other, each with a row for each of its tokens.
template <class T>
void StepTrace::Take(Stream& stream, T* Entry::*dst, int64_t matrix_idx, int64_t first_token,
                     MatrixView<const T> rows) const {
  TF_CHECK_EQ(rows.stride, rows.cols);
  for (const Entry& e : entries_) {
    const int64_t begin = std::max(e.begin, first_token), end = std::min(e.end, first_token + rows.rows);
    if (begin >= end) continue;
    const int64_t dst_row = matrix_idx * (e.end - e.begin) + begin - e.begin;
    stream.CopyToHost(e.*dst + dst_row * rows.cols, rows.data + (begin - first_token) * rows.stride,
                      (end - begin) * rows.cols * sizeof(T));
  }
}

}  // namespace tokenferry

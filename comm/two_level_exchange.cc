#include "comm/two_level_exchange.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "comm/copy_rows.h"
#include "comm/exchange_ops.h"
#include "comm/exchange_planner.h"
#include "comm/two_level_plan.h"
#include "core/device/growing_buffer.h"
#include "core/kernels/gather_rows.h"

namespace tokenferry {
namespace {

constexpr int64_t kMaxItems = std::numeric_limits<int32_t>::max();

// What one transfer moves, in items (rows, selections, bytes): counts first, offsets when they are complete.
struct Transfer {
  std::vector<int64_t> send, recv;  // [R + 1] of each rank at r + 1, then summed
  explicit Transfer(int num_ranks) : send(num_ranks + 1), recv(num_ranks + 1) {}
  void Sum() {
    std::partial_sum(send.begin(), send.end(), send.begin());
    std::partial_sum(recv.begin(), recv.end(), recv.begin());
  }
};

// What of a plan only this path needs: orders of rows and outputs on their way, and how much goes where.
struct TwoLevelState {
  explicit TwoLevelState(int num_ranks)
      : wire(num_ranks), forward(num_ranks), inside(num_ranks), back(num_ranks), weights(num_ranks) {}
  std::vector<HostMessage> messages;              // [N]
  std::vector<int32_t> counts, lists;             // received from those this rank serves
  std::vector<ServedSource> served;               // views of them
  Transfer wire, forward, inside, back, weights;  // rows, rows, selections, outputs, weights
  std::vector<int32_t> wire_token;                // token of each row sent over the wire
  std::vector<int32_t> forward_row;               // wire row of each row forwarded
  std::vector<int32_t> inside_selection;          // selection at the expert of each output sent inside the host
  std::vector<int32_t> block_output;              // for each source, then block position: output received inside
  std::vector<int32_t> combine_selection;         // exact: SendPlan's, as outputs received back
  std::vector<int64_t> reduce_offsets;            // node: [rows + 1] into the next two
  std::vector<int32_t> reduce_output, reduce_k;   // outputs received inside, and their weights
  std::vector<int64_t> home_offsets;              // node: [T + 1] into the next two
  std::vector<int32_t> home_row, home_k;          // sums received back, and 0 (their weight is 1)
};

class TwoLevelExchange : public Exchange {
 public:
  TwoLevelExchange(Transport& transport, Device& device, const ExchangeOptions& options, const Topology& topology)
      : Exchange(ExchangePath::kTwoLevel, transport, device, options),
        transport_(transport),
        device_(device),
        options_(options),
        row_bytes_(options.hidden * DTypeBytes(options.row_dtype)),
        out_bytes_(options.hidden * static_cast<int64_t>(sizeof(float))),
        num_ranks_(transport.num_ranks()),
        routes_(TwoLevelRoutes::Make(topology, transport.rank())),
        planner_(transport, options),
        wire_rows_(transport.memory_kind(), "exchange: rows for hosts"),
        host_rows_(transport.memory_kind(), "exchange: rows for this host"),
        forward_rows_(transport.memory_kind(), "exchange: rows to forward"),
        rows_(transport.memory_kind(), "exchange: rows received"),
        inside_send_(transport.memory_kind(), "exchange: outputs to their servers"),
        inside_recv_(transport.memory_kind(), "exchange: outputs of this host"),
        back_send_(transport.memory_kind(), "exchange: outputs to send back"),
        back_recv_(transport.memory_kind(), "exchange: outputs received back"),
        weight_send_(transport.memory_kind(), "exchange: weights for hosts"),
        weight_recv_(transport.memory_kind(), "exchange: weights for this host"),
        state_(num_ranks_),
        send_bytes_(num_ranks_ + 1),
        recv_bytes_(num_ranks_ + 1) {
    // Hosts in the order of their servers' ranks, which is the order of messages in a buffer.
    hosts_by_server_.resize(routes_.hosts.size());
    std::iota(hosts_by_server_.begin(), hosts_by_server_.end(), 0);
    std::sort(hosts_by_server_.begin(), hosts_by_server_.end(),
              [&](int a, int b) { return routes_.server_per_host[a] < routes_.server_per_host[b]; });
  }

 private:
  bool reduces() const { return options_.reduction == Reduction::kNode; }

  absl::Status DoPlan(Stream& stream, const CallSite& site, const Routing& routing, const Placement& placement,
                      ExchangePlan& plan) override {
    TF_RETURN_IF_ERROR(planner_.Plan(transport_, stream, site, routing, placement, plan));
    state_ = TwoLevelState(num_ranks_);
    for (const Topology::Host& host : routes_.hosts) {
      state_.messages.push_back(BuildHostMessage(plan.send, host, options_.reduction));
    }
    TF_RETURN_IF_ERROR(SwapCounts(At(site, "plan forward counts")));
    TF_RETURN_IF_ERROR(SwapLists(At(site, "plan forwards")));
    PlanWire();
    PlanForward(plan);
    PlanInside(plan);
    if (reduces()) {
      PlanReducedReturn(plan);
    } else {
      PlanExactReturn(plan);
    }
    return absl::OkStatus();
  }

  // Sends each server its part of the messages; what arrives is by source.
  absl::Status Swap(const CallSite& site, std::vector<int32_t> HostMessage::*part, Transfer sizes,
                    std::vector<int32_t>& received) {
    std::vector<int32_t> send;
    for (int h : hosts_by_server_) {
      const std::vector<int32_t>& values = state_.messages[h].*part;
      send.insert(send.end(), values.begin(), values.end());
      sizes.send[routes_.server_per_host[h] + 1] = static_cast<int64_t>(values.size());
    }
    sizes.Sum();
    received.resize(sizes.recv.back());
    ScaleOffsets(sizes.send, sizeof(int32_t), send_bytes_);
    ScaleOffsets(sizes.recv, sizeof(int32_t), recv_bytes_);
    return transport_.HostAllToAllV(site, {send.data(), send_bytes_, received.data(), recv_bytes_});
  }

  absl::Status SwapCounts(const CallSite& site) {
    const size_t size = 1 + 2 * routes_.ranks.size();
    Transfer sizes(num_ranks_);
    for (int s : routes_.my_sources()) sizes.recv[s + 1] = static_cast<int64_t>(size);
    TF_RETURN_IF_ERROR(Swap(site, &HostMessage::counts, sizes, state_.counts));
    int64_t num_forwards = 0, num_selections = 0;
    for (int s : routes_.my_sources()) {
      ServedSource served{.source = s};
      served.counts = absl::MakeConstSpan(state_.counts).subspan(state_.served.size() * size, size);
      TF_RETURN_IF_ERROR(Annotate(ValidateCounts(served), ToString(site)));
      num_forwards += served.num_forwards();
      num_selections += served.num_selections();
      state_.served.push_back(served);
    }
    if (num_forwards <= kMaxItems && num_selections <= kMaxItems) return absl::OkStatus();
    return absl::ResourceExhaustedError(absl::StrCat(ToString(site), ": rank ", routes_.me.value, " would forward ",
                                                     num_forwards, " rows with ", num_selections,
                                                     " selections; one exchange takes ", kMaxItems));
  }

  absl::Status SwapLists(const CallSite& site) {
    Transfer sizes(num_ranks_);
    for (const ServedSource& s : state_.served) sizes.recv[s.source + 1] = s.num_lists(options_.reduction);
    TF_RETURN_IF_ERROR(Swap(site, &HostMessage::lists, sizes, state_.lists));
    size_t begin = 0;
    for (ServedSource& s : state_.served) {
      s.lists = absl::MakeConstSpan(state_.lists).subspan(begin, s.num_lists(options_.reduction));
      begin += s.lists.size();
      TF_RETURN_IF_ERROR(Annotate(ValidateLists(s, options_.reduction), ToString(site)));
    }
    return absl::OkStatus();
  }

  void PlanWire() {
    for (int h : hosts_by_server_) {
      const std::vector<int32_t>& tokens = state_.messages[h].row_token;
      state_.wire_token.insert(state_.wire_token.end(), tokens.begin(), tokens.end());
      state_.wire.send[routes_.server_per_host[h] + 1] = static_cast<int64_t>(tokens.size());
    }
    for (const ServedSource& s : state_.served) state_.wire.recv[s.source + 1] = s.num_rows();
    state_.wire.Sum();
  }

  // Rows to each rank of the host: by source, in the source's order. Moves the plan's row indices to that order.
  void PlanForward(ExchangePlan& plan) {
    std::vector<size_t> next(state_.served.size(), 0);  // into each source's list
    for (size_t d = 0; d < routes_.ranks.size(); ++d) {
      int64_t& count = state_.forward.send[routes_.ranks[d] + 1];
      for (size_t i = 0; i < state_.served.size(); ++i) {
        const ServedSource& s = state_.served[i];
        const auto rows = s.forwards().subspan(next[i], s.rows_for(static_cast<int>(d)));
        next[i] += rows.size();
        for (int32_t row : rows) {
          state_.forward_row.push_back(static_cast<int32_t>(state_.wire.recv[s.source] + row));
        }
        count += static_cast<int64_t>(rows.size());
      }
    }
    int64_t first_row = 0;
    for (size_t m = 0; m < routes_.ranks.size(); ++m) {
      const int64_t begin = first_row;
      for (int s : routes_.sources[m]) {
        const int64_t shift = first_row - plan.recv.row_offsets[s];
        for (int64_t i = plan.recv.selection_offsets[s]; i < plan.recv.selection_offsets[s + 1]; ++i) {
          plan.recv.row_idx[plan.recv.return_selection[i]] += static_cast<int32_t>(shift);
        }
        first_row += plan.recv.row_offsets[s + 1] - plan.recv.row_offsets[s];
      }
      state_.forward.recv[routes_.ranks[m] + 1] = first_row - begin;
    }
    state_.forward.Sum();
  }

  // Outputs go to the servers of their sources as the rows came, and there make a block for each source.
  void PlanInside(const ExchangePlan& plan) {
    for (size_t m = 0; m < routes_.ranks.size(); ++m) {
      for (int s : routes_.sources[m]) {
        const int64_t begin = plan.recv.selection_offsets[s], end = plan.recv.selection_offsets[s + 1];
        state_.inside_selection.insert(state_.inside_selection.end(), plan.recv.return_selection.begin() + begin,
                                       plan.recv.return_selection.begin() + end);
        state_.inside.send[routes_.ranks[m] + 1] += end - begin;
      }
    }
    const size_t num_served = state_.served.size();
    std::vector<int64_t> first(routes_.ranks.size() * num_served);  // of each rank's outputs for each source
    int64_t next = 0;
    for (size_t d = 0; d < routes_.ranks.size(); ++d) {
      for (size_t i = 0; i < num_served; ++i) {
        first[d * num_served + i] = next;
        next += state_.served[i].selections_for(static_cast<int>(d));
        state_.inside.recv[routes_.ranks[d] + 1] += state_.served[i].selections_for(static_cast<int>(d));
      }
    }
    state_.inside.Sum();
    for (size_t i = 0; i < num_served; ++i) {
      for (size_t d = 0; d < routes_.ranks.size(); ++d) {
        const int64_t n = state_.served[i].selections_for(static_cast<int>(d)), begin = first[d * num_served + i];
        for (int64_t j = 0; j < n; ++j) state_.block_output.push_back(static_cast<int32_t>(begin + j));
      }
    }
  }

  void PlanExactReturn(const ExchangePlan& plan) {
    for (const ServedSource& s : state_.served) state_.back.send[s.source + 1] = s.num_selections();
    std::vector<int32_t> received(plan.num_send_selections());  // of each selection of the plan
    int32_t next = 0;
    for (int h : hosts_by_server_) {
      const int32_t begin = next;
      for (RankId d : routes_.hosts[h].ranks) {
        for (int64_t x = plan.send.selection_offsets[d.value]; x < plan.send.selection_offsets[d.value + 1]; ++x) {
          received[x] = next++;
        }
      }
      state_.back.recv[routes_.server_per_host[h] + 1] = next - begin;
    }
    state_.back.Sum();
    for (int32_t x : plan.send.combine_selection) state_.combine_selection.push_back(received[x]);
  }

  void PlanReducedReturn(const ExchangePlan& plan) {
    state_.reduce_offsets.assign(1, 0);
    int64_t block = 0;
    for (const ServedSource& s : state_.served) {
      state_.back.send[s.source + 1] = s.num_rows();
      state_.weights.recv[s.source + 1] = s.num_selections();
      for (int32_t n : s.selections_per_row()) state_.reduce_offsets.push_back(state_.reduce_offsets.back() + n);
      for (int32_t position : s.positions()) state_.reduce_output.push_back(state_.block_output[block + position]);
      block += s.num_selections();
    }
    state_.reduce_k.resize(state_.reduce_output.size());
    std::iota(state_.reduce_k.begin(), state_.reduce_k.end(), 0);
    for (size_t h = 0; h < routes_.hosts.size(); ++h) {
      const HostMessage& message = state_.messages[h];
      state_.back.recv[routes_.server_per_host[h] + 1] = static_cast<int64_t>(message.row_token.size());
      state_.weights.send[routes_.server_per_host[h] + 1] = static_cast<int64_t>(message.weight_k.size());
    }
    state_.back.Sum();
    state_.weights.Sum();
    // Each token's sums, by host.
    state_.home_offsets.assign(plan.send.num_tokens + 1, 0);
    for (const HostMessage& message : state_.messages) {
      for (int32_t t : message.row_token) ++state_.home_offsets[t + 1];
    }
    std::partial_sum(state_.home_offsets.begin(), state_.home_offsets.end(), state_.home_offsets.begin());
    state_.home_row.resize(state_.home_offsets.back());
    state_.home_k.assign(state_.home_offsets.back(), 0);
    std::vector<int64_t> next(state_.home_offsets.begin(), state_.home_offsets.end() - 1);
    for (size_t h = 0; h < routes_.hosts.size(); ++h) {
      int64_t row = state_.back.recv[routes_.server_per_host[h]];
      for (int32_t t : state_.messages[h].row_token) state_.home_row[next[t]++] = static_cast<int32_t>(row++);
    }
  }

  // Transfers items of `num_bytes` each.
  absl::Status Move(Stream& stream, const CallSite& site, const Transfer& transfer, int64_t num_bytes,
                    const GrowingBuffer& send, const GrowingBuffer& recv, std::vector<int64_t>& stats) {
    ScaleOffsets(transfer.send, num_bytes, send_bytes_);
    ScaleOffsets(transfer.recv, num_bytes, recv_bytes_);
    TF_RETURN_IF_ERROR(
        transport_.AllToAllV(stream, site, {send.data(), send_bytes_, recv.data(), recv_bytes_, num_bytes}));
    for (int r = 0; r < num_ranks_; ++r) stats[r] += send_bytes_[r + 1] - send_bytes_[r];
    return absl::OkStatus();
  }

  absl::StatusOr<ExpertRows> DoDispatch(Stream& stream, const CallSite& site, const ExchangePlan& plan,
                                        ConstFloatMatrix home_rows) override {
    const Transfer &wire = state_.wire, &forward = state_.forward;
    TF_RETURN_IF_ERROR(wire_rows_.Reserve(device_, wire.send.back() * row_bytes_));
    TF_RETURN_IF_ERROR(host_rows_.Reserve(device_, wire.recv.back() * row_bytes_));
    TF_RETURN_IF_ERROR(forward_rows_.Reserve(device_, forward.send.back() * row_bytes_));
    TF_RETURN_IF_ERROR(rows_.Reserve(device_, forward.recv.back() * row_bytes_));
    TF_RETURN_IF_ERROR(wire_token_.Upload(stream, state_.wire_token));
    TF_RETURN_IF_ERROR(forward_row_.Upload(stream, state_.forward_row));
    TF_RETURN_IF_ERROR(row_idx_.Upload(stream, plan.recv.row_idx));
    TF_RETURN_IF_ERROR(slot_offsets_.Upload(stream, plan.recv.slot_offsets));
    stream.Launch(kGatherRows,
                  {home_rows, wire_token_.as<int32_t>(), wire.send.back(), wire_rows_.data(), options_.row_dtype});
    TF_RETURN_IF_ERROR(Move(stream, At(site, "dispatch rows"), wire, row_bytes_, wire_rows_, host_rows_,
                            stats_.dispatch_bytes_per_rank));
    stream.Launch(kCopyRows, {host_rows_.data(), forward_row_.as<int32_t>(), forward.send.back(), row_bytes_,
                              forward_rows_.data()});
    TF_RETURN_IF_ERROR(Move(stream, At(site, "forward rows"), forward, row_bytes_, forward_rows_, rows_,
                            stats_.dispatch_bytes_per_rank));
    for (int r = 0; r < num_ranks_; ++r) {
      stats_.dispatch_rows_per_rank[r] += wire.send[r + 1] - wire.send[r] + forward.send[r + 1] - forward.send[r];
    }
    slot_offsets_host_ = plan.recv.slot_offsets;
    return ExpertRows{.rows = rows_.data(),
                      .dtype = options_.row_dtype,
                      .hidden = options_.hidden,
                      .row_stride = options_.hidden,
                      .row_idx = row_idx_.as<int32_t>(),
                      .slot_offsets = slot_offsets_.as<int64_t>(),
                      .slot_offsets_host = &slot_offsets_host_,
                      .num_selections = plan.num_recv_selections()};
  }

  absl::StatusOr<FloatMatrix> DoExpertOut(const ExchangePlan& plan) override {
    TF_RETURN_IF_ERROR(expert_out_.Reserve(device_, plan.num_recv_selections() * out_bytes_));
    return FloatMatrix(expert_out_.data(), DType::kF32, plan.num_recv_selections(), options_.hidden);
  }

  absl::Status DoCombine(Stream& stream, const CallSite& site, const ExchangePlan& plan, MatrixView<const float> weight,
                         MatrixView<float> out) override {
    const Transfer& inside = state_.inside;
    TF_RETURN_IF_ERROR(inside_send_.Reserve(device_, inside.send.back() * out_bytes_));
    TF_RETURN_IF_ERROR(inside_recv_.Reserve(device_, inside.recv.back() * out_bytes_));
    TF_RETURN_IF_ERROR(back_send_.Reserve(device_, state_.back.send.back() * out_bytes_));
    TF_RETURN_IF_ERROR(back_recv_.Reserve(device_, state_.back.recv.back() * out_bytes_));
    TF_RETURN_IF_ERROR(inside_selection_.Upload(stream, state_.inside_selection));
    const auto expert_out = MakeMatrix<const float>(expert_out_.data(), plan.num_recv_selections(), options_.hidden);
    stream.Launch(kGatherRows,
                  {expert_out, inside_selection_.as<int32_t>(), inside.send.back(), inside_send_.data(), DType::kF32});
    TF_RETURN_IF_ERROR(Move(stream, At(site, "combine inside"), inside, out_bytes_, inside_send_, inside_recv_,
                            stats_.combine_bytes_per_rank));
    return reduces() ? ReturnSums(stream, site, weight, out) : ReturnOutputs(stream, site, plan, weight, out);
  }

  absl::Status ReturnOutputs(Stream& stream, const CallSite& site, const ExchangePlan& plan,
                             MatrixView<const float> weight, MatrixView<float> out) {
    TF_RETURN_IF_ERROR(output_.Upload(stream, state_.block_output));
    TF_RETURN_IF_ERROR(offsets_.Upload(stream, plan.send.combine_offsets));
    TF_RETURN_IF_ERROR(selection_.Upload(stream, state_.combine_selection));
    TF_RETURN_IF_ERROR(k_.Upload(stream, plan.send.combine_k));
    stream.Launch(kCopyRows,
                  {inside_recv_.data(), output_.as<int32_t>(), state_.back.send.back(), out_bytes_, back_send_.data()});
    TF_RETURN_IF_ERROR(Move(stream, At(site, "combine rows"), state_.back, out_bytes_, back_send_, back_recv_,
                            stats_.combine_bytes_per_rank));
    const auto returned = MakeMatrix<const float>(back_recv_.data(), state_.back.recv.back(), options_.hidden);
    stream.Launch(kCombineRows,
                  {returned, offsets_.as<int64_t>(), selection_.as<int32_t>(), k_.as<int32_t>(), weight, out});
    return absl::OkStatus();
  }

  absl::Status ReturnSums(Stream& stream, const CallSite& site, MatrixView<const float> weight, MatrixView<float> out) {
    TF_RETURN_IF_ERROR(SendWeights(stream, At(site, "combine weights"), weight));
    TF_RETURN_IF_ERROR(reduce_offsets_.Upload(stream, state_.reduce_offsets));
    TF_RETURN_IF_ERROR(output_.Upload(stream, state_.reduce_output));
    TF_RETURN_IF_ERROR(reduce_k_.Upload(stream, state_.reduce_k));
    const int64_t num_sums = state_.back.send.back();
    // Weights lie side by side, in the order of the outputs: a matrix whose rows all begin at the same place.
    const MatrixView<const float> weights{weight_recv_.as<float>(), num_sums, 1, 0};
    const auto outputs = MakeMatrix<const float>(inside_recv_.data(), state_.inside.recv.back(), options_.hidden);
    stream.Launch(kCombineRows, {outputs, reduce_offsets_.as<int64_t>(), output_.as<int32_t>(), reduce_k_.as<int32_t>(),
                                 weights, MakeMatrix<float>(back_send_.data(), num_sums, options_.hidden)});
    TF_RETURN_IF_ERROR(Move(stream, At(site, "combine rows"), state_.back, out_bytes_, back_send_, back_recv_,
                            stats_.combine_bytes_per_rank));
    TF_RETURN_IF_ERROR(offsets_.Upload(stream, state_.home_offsets));
    TF_RETURN_IF_ERROR(selection_.Upload(stream, state_.home_row));
    TF_RETURN_IF_ERROR(k_.Upload(stream, state_.home_k));
    TF_RETURN_IF_ERROR(one_.Upload(stream, std::vector<float>{1.0f}));
    const auto sums = MakeMatrix<const float>(back_recv_.data(), state_.back.recv.back(), options_.hidden);
    stream.Launch(kCombineRows, {sums,
                                 offsets_.as<int64_t>(),
                                 selection_.as<int32_t>(),
                                 k_.as<int32_t>(),
                                 {one_.as<float>(), out.rows, 1, 0},
                                 out});
    return absl::OkStatus();
  }

  absl::Status SendWeights(Stream& stream, const CallSite& site, MatrixView<const float> weight) {
    std::vector<int32_t> idx;
    for (int h : hosts_by_server_) {
      const HostMessage& message = state_.messages[h];
      for (size_t i = 0; i < message.weight_k.size(); ++i) {
        idx.push_back(static_cast<int32_t>(message.weight_token[i] * weight.stride + message.weight_k[i]));
      }
    }
    const Transfer& weights = state_.weights;
    TF_RETURN_IF_ERROR(weight_send_.Reserve(device_, weights.send.back() * static_cast<int64_t>(sizeof(float))));
    TF_RETURN_IF_ERROR(weight_recv_.Reserve(device_, weights.recv.back() * static_cast<int64_t>(sizeof(float))));
    TF_RETURN_IF_ERROR(weight_idx_.Upload(stream, idx));
    stream.Launch(kCopyRows,
                  {weight.data, weight_idx_.as<int32_t>(), weights.send.back(), sizeof(float), weight_send_.data()});
    return Move(stream, site, weights, sizeof(float), weight_send_, weight_recv_, stats_.combine_bytes_per_rank);
  }

  Transport& transport_;
  Device& device_;
  const ExchangeOptions options_;
  const int64_t row_bytes_;  // of a dispatched row
  const int64_t out_bytes_;  // of an expert output
  const int num_ranks_;
  const TwoLevelRoutes routes_;
  std::vector<int> hosts_by_server_;
  ExchangePlanner planner_;
  GrowingBuffer wire_rows_, host_rows_, forward_rows_, rows_, inside_send_, inside_recv_, back_send_, back_recv_;
  GrowingBuffer weight_send_, weight_recv_;
  GrowingBuffer expert_out_{MemoryKind::kDevice, "exchange: expert outputs"};
  GrowingBuffer wire_token_{MemoryKind::kDevice, "exchange: token of each row"};
  GrowingBuffer forward_row_{MemoryKind::kDevice, "exchange: rows to forward, indices"};
  GrowingBuffer row_idx_{MemoryKind::kDevice, "exchange: row of each selection"};
  GrowingBuffer slot_offsets_{MemoryKind::kDevice, "exchange: slot offsets"};
  GrowingBuffer inside_selection_{MemoryKind::kDevice, "exchange: order inside the host"};
  GrowingBuffer output_{MemoryKind::kDevice, "exchange: outputs of each source"};
  GrowingBuffer reduce_offsets_{MemoryKind::kDevice, "exchange: outputs of each sum"};
  GrowingBuffer reduce_k_{MemoryKind::kDevice, "exchange: weights of each sum"};
  GrowingBuffer offsets_{MemoryKind::kDevice, "exchange: combine offsets"};
  GrowingBuffer selection_{MemoryKind::kDevice, "exchange: combine order"};
  GrowingBuffer k_{MemoryKind::kDevice, "exchange: combine weights' positions"};
  GrowingBuffer weight_idx_{MemoryKind::kDevice, "exchange: weights to send, indices"};
  GrowingBuffer one_{MemoryKind::kDevice, "exchange: 1"};
  TwoLevelState state_;                           // of the last Plan
  std::vector<int64_t> slot_offsets_host_;        // of the last Dispatch
  std::vector<int64_t> send_bytes_, recv_bytes_;  // [R + 1]
};

}  // namespace

std::unique_ptr<Exchange> CreateTwoLevelExchange(Transport& transport, Device& device, const ExchangeOptions& options,
                                                 const Topology& topology) {
  return std::make_unique<TwoLevelExchange>(transport, device, options, topology);
}

}  // namespace tokenferry

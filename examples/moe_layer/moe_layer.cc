// One Mixture-of-Experts layer over the ranks of an MPI job: route, plan, dispatch, experts, combine. Every rank has
// tokens of its own and owns some of the experts. The weights are made up from the number of the expert, so that each
// rank can compute its tokens by itself too and compare: the bits must be the same for any number of ranks.
//
//   mpirun -n 3 moe_layer
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "comm/transport/collectives.h"
#include "comm/transport/local_transport.h"
#include "comm/transport/mpi_session.h"
#include "comm/transport/mpi_transport.h"
#include "comm/tuning/exchange_choice.h"
#include "core/device/cpu_device.h"
#include "experts/ffn/expert_ffn.h"
#include "experts/router/router.h"

namespace tf = tokenferry;

namespace {

constexpr int64_t kTokens = 5, kHidden = 64, kIntermediate = 32;
constexpr int kExperts = 8, kTopK = 2;

// Numbers between -1 and 1 that look random and are the same everywhere.
std::vector<float> Numbers(uint32_t seed, int64_t count) {
  std::vector<float> numbers(count);
  uint32_t x = seed * 2654435761u + 1;
  for (float& v : numbers) {
    x = x * 1664525u + 1013904223u;
    v = static_cast<float>(static_cast<int32_t>(x)) * 0x1p-31f;
  }
  return numbers;
}

// The matrices of some experts, gate and up [I, H], down [H, I]. Here they lie in plain vectors: the memory of a CPU
// device is the process's. On a GPU they would be Buffers of the device.
struct Experts {
  explicit Experts(absl::Span<const int> ids) {
    constexpr int64_t kSize = kIntermediate * kHidden;
    for (const int id : ids) weights.push_back(Numbers(1000 + id, 3 * kSize));
    for (const std::vector<float>& w : weights) {
      gate.push_back(View(w.data(), kIntermediate, kHidden));
      up.push_back(View(w.data() + kSize, kIntermediate, kHidden));
      down.push_back(View(w.data() + 2 * kSize, kHidden, kIntermediate));
    }
  }
  static tf::WeightView View(const float* data, int64_t rows, int64_t cols) {
    tf::WeightView view;
    view.data = data;
    view.rows = rows;
    view.cols = cols;
    return view;
  }
  std::vector<std::vector<float>> weights;
  std::vector<tf::WeightView> gate, up, down;
};

// out [max_selections, H] = the experts' networks of `rows`.
void RunExperts(tf::Stream& stream, const tf::ExpertRows& rows, const Experts& experts, std::vector<float>& scratch,
                tf::FloatMatrix out) {
  scratch.resize(out.rows * 2 * kIntermediate);
  tf::ExpertFfnArgs args;
  args.rows = rows;
  args.num_slots = static_cast<int64_t>(experts.weights.size());
  args.intermediate = kIntermediate;
  args.gate = {Experts::View(nullptr, kIntermediate, kHidden), experts.gate.data()};
  args.up = {Experts::View(nullptr, kIntermediate, kHidden), experts.up.data()};
  args.down = {Experts::View(nullptr, kHidden, kIntermediate), experts.down.data()};
  args.scratch = scratch.data();
  args.out = out;
  tf::ExpertFfn(stream, args);
}

// The layer for this rank's tokens: out [T, H] from rows [T, H] and the router's logits [T, E].
absl::Status MoeLayer(tf::Transport& transport, tf::Device& device, tf::MatrixView<const float> logits,
                      tf::MatrixView<const float> rows, tf::MatrixView<float> out) {
  TF_ASSIGN_OR_RETURN(const std::unique_ptr<tf::Stream> stream, device.CreateStream());
  TF_ASSIGN_OR_RETURN(const std::unique_ptr<tf::Exchange> exchange,
                      tf::CreateExchange(transport, device, {.hidden = kHidden}));
  const tf::Placement placement = tf::Placement::Linear(kExperts, transport.num_ranks());
  const Experts experts(placement.local_experts(transport.rank()));
  const tf::CallSite site{"example layer"};  // names this call in errors

  std::vector<int32_t> expert_idx(rows.rows * kTopK);
  std::vector<float> weight(rows.rows * kTopK);
  std::vector<uint8_t> bad_tokens(rows.rows);
  tf::RouteArgs route;
  route.logits = logits;
  route.renormalise = tf::Renormalise::kYes;
  route.top_k = kTopK;
  route.out = {tf::MakeMatrix<int32_t>(expert_idx.data(), rows.rows, kTopK),
               tf::MakeMatrix<float>(weight.data(), rows.rows, kTopK)};
  route.bad_tokens = bad_tokens.data();
  tf::Route(*stream, route);
  TF_RETURN_IF_ERROR(stream->Synchronize());
  // A token whose logits are NaN goes nowhere. Its row would be 0, which an engine must not take for an answer.
  for (size_t t = 0; t < bad_tokens.size(); ++t) {
    if (bad_tokens[t] != 0) return absl::InvalidArgumentError(absl::StrCat("token ", t, " has NaN logits"));
  }

  TF_RETURN_IF_ERROR(exchange->Plan(*stream, site, route.out, placement));
  TF_ASSIGN_OR_RETURN(const tf::ExpertRows expert_rows, exchange->Dispatch(*stream, site, rows));
  TF_ASSIGN_OR_RETURN(const tf::FloatMatrix expert_out, exchange->ExpertOut());
  std::vector<float> scratch;
  RunExperts(*stream, expert_rows, experts, scratch, expert_out);
  TF_RETURN_IF_ERROR(exchange->Combine(*stream, site, route.out.weight, out));
  return stream->Synchronize();
}

absl::Status Run(tf::Transport& transport) {
  const int rank = transport.rank().value;
  const std::unique_ptr<tf::Device> device = tf::CreateCpuDevice({.isa = tf::BestIsa(tf::SupportedIsas())});
  const int64_t num_tokens = kTokens + rank;  // ranks need not have the same number
  const std::vector<float> rows = Numbers(10 + rank, num_tokens * kHidden);
  const std::vector<float> logits = Numbers(20 + rank, num_tokens * kExperts);
  std::vector<float> out(num_tokens * kHidden), alone(num_tokens * kHidden);
  const auto run = [&](tf::Transport& over, std::vector<float>& result) {
    return MoeLayer(over, *device, tf::MakeMatrix<const float>(const_cast<float*>(logits.data()), num_tokens, kExperts),
                    tf::MakeMatrix<const float>(const_cast<float*>(rows.data()), num_tokens, kHidden),
                    tf::MakeMatrix<float>(result.data(), num_tokens, kHidden));
  };
  TF_RETURN_IF_ERROR(run(transport, out));
  // The same tokens with a group of one rank, which owns all experts.
  const auto self = tf::CreateLocalGroup(1);
  TF_RETURN_IF_ERROR(run(*self[0], alone));
  const bool same = std::memcmp(out.data(), alone.data(), out.size() * sizeof(float)) == 0;
  const absl::Status status =
      same ? absl::OkStatus() : absl::InternalError(absl::StrCat("rank ", rank, ": not the bits of one rank alone"));
  TF_RETURN_IF_ERROR(tf::AgreeOnStatus(transport, {"compare"}, status));
  if (rank == 0) {
    std::printf("%d ranks, %d experts, top-%d: the same bits as one rank alone\n", transport.num_ranks(), kExperts,
                kTopK);
  }
  return absl::OkStatus();
}

}  // namespace

int main() {
  const auto session = tf::MpiSession::Start(tf::OnSigterm::kLeave);
  if (!session.ok()) {
    std::fprintf(stderr, "moe_layer: %s\n", session.status().ToString().c_str());
    return 1;
  }
  auto transport = tf::CreateMpiTransport();
  if (!transport.ok()) {
    std::fprintf(stderr, "moe_layer: %s\n", transport.status().ToString().c_str());
    return 1;
  }
  const absl::Status status = Run(**transport);
  if (!status.ok()) (*transport)->Abort(status);  // ends all ranks; there is no one left to finalise with
  return 0;
}

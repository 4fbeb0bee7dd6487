// A rank that exchanges for ever, as an engine would: the victim and the survivors of rank_death_test.py.
//   exchange_loop TIMEOUT PATH [RANK PHASE]
// With RANK and PHASE that rank comes 100 ms late to that phase, every time.
// Prints "rank R pid P" once, and rank 0 "step S" after each step. On an error it says so on stderr and ends the group.
#include <unistd.h>

#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/time/time.h"
#include "comm/exchange.h"
#include "comm/faulty_transport.h"
#include "comm/mpi_session.h"
#include "comm/mpi_transport.h"
#include "core/device/cpu_device.h"

namespace tokenferry {
namespace {

constexpr int kTokens = 8, kTopK = 2, kExperts = 6, kHidden = 64, kLayers = 4;

absl::Status Loop(Transport& transport, ExchangePath path) {
  auto device = CreateCpuDevice({});
  TF_ASSIGN_OR_RETURN(auto stream, device->CreateStream());
  TF_ASSIGN_OR_RETURN(auto exchange, CreateExchange(transport, *device, {.hidden = kHidden, .path = path}));
  const Placement placement = Placement::Linear(kExperts, transport.num_ranks());
  std::vector<int32_t> experts;
  for (int i = 0; i < kTokens * kTopK; ++i) experts.push_back((i + transport.rank().value) % kExperts);
  TF_ASSIGN_OR_RETURN(Buffer idx, device->Allocate(experts.size() * 4, MemoryKind::kDevice, "experts"));
  TF_ASSIGN_OR_RETURN(Buffer weight, device->Allocate(experts.size() * 4, MemoryKind::kDevice, "weights"));
  TF_ASSIGN_OR_RETURN(Buffer hidden, device->Allocate(kTokens * kHidden * 4, MemoryKind::kDevice, "hidden"));
  stream->CopyToDevice(idx.data(), experts.data(), idx.num_bytes());
  stream->Fill(weight.data(), 0, weight.num_bytes());
  stream->Fill(hidden.data(), 0, hidden.num_bytes());
  const Routing routing{MakeMatrix<int32_t>(idx.data(), kTokens, kTopK),
                        MakeMatrix<float>(weight.data(), kTokens, kTopK)};
  const auto rows = MakeMatrix<float>(hidden.data(), kTokens, kHidden);
  for (int64_t step = 0;; ++step) {
    for (int layer = 0; layer < kLayers; ++layer) {
      const CallSite site{"moe", layer, step};
      TF_ASSIGN_OR_RETURN(const ExchangePlan* plan, exchange->Plan(*stream, site, routing, placement));
      TF_ASSIGN_OR_RETURN(const ExpertRows arrived, exchange->Dispatch(*stream, site, *plan, rows));
      TF_ASSIGN_OR_RETURN(const FloatMatrix out, exchange->ExpertOut(*plan));
      stream->Fill(out.data, 0, arrived.num_selections * kHidden * sizeof(float));
      TF_RETURN_IF_ERROR(exchange->Combine(*stream, site, *plan, routing.weight, rows));
      TF_RETURN_IF_ERROR(stream->Synchronize());
    }
    if (transport.rank().value == 0) std::printf("step %lld\n", static_cast<long long>(step));
    std::fflush(stdout);
    usleep(1000);
  }
}

int Main(absl::Duration timeout, ExchangePath path, int slow_rank, const std::string& slow_phase) {
  auto session = MpiSession::Start(OnSigterm::kRequestStop);
  if (!session.ok()) {
    std::fprintf(stderr, "%s\n", session.status().ToString().c_str());
    return 2;
  }
  auto transport = CreateMpiTransport({.timeout = timeout});
  absl::Status status = transport.status();
  if (status.ok()) {
    std::printf("rank %d pid %d\n", (*transport)->rank().value, static_cast<int>(getpid()));
    std::fflush(stdout);
    if ((*transport)->rank().value == slow_rank) {
      FaultOptions faults;
      faults.delay_phase = slow_phase;
      faults.delay = absl::Milliseconds(100);
      *transport = CreateFaultyTransport(*std::move(transport), faults);
    }
    status = Loop(**transport, path);
  }
  std::fprintf(stderr, "ended: %s\n", status.ToString().c_str());
  if (transport.ok()) (*transport)->Abort(status);
  return 1;
}

}  // namespace
}  // namespace tokenferry

int main(int argc, char** argv) {
  absl::Duration timeout;
  const bool complete = argc == 3 || argc == 5;
  const std::string path = complete ? argv[2] : "";
  int slow_rank = -1;
  if (!complete || !absl::ParseDuration(argv[1], &timeout) || (path != "peer" && path != "alltoallv") ||
      (argc == 5 && !absl::SimpleAtoi(argv[3], &slow_rank))) {
    std::fprintf(stderr, "usage: exchange_loop TIMEOUT peer|alltoallv [RANK PHASE]\n");
    return 2;
  }
  using tokenferry::ExchangePath;
  return tokenferry::Main(timeout, path == "peer" ? ExchangePath::kPeer : ExchangePath::kAllToAllV, slow_rank,
                          argc == 5 ? argv[4] : "");
}

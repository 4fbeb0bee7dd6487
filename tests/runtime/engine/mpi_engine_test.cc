// The same bits over MPI as with one rank in one process.
#include <gtest/gtest.h>

#include <cstring>

#include "comm/transport/collectives.h"
#include "comm/transport/mpi_transport.h"
#include "tests/runtime/engine/engine_runner.h"

namespace tokenferry {
namespace {

TEST(MpiEngine, LogitsAndRoutingEqualOneLocalRanks) {
  auto transport = CreateMpiTransport({.timeout = absl::Seconds(60)});
  ASSERT_TRUE(transport.ok()) << transport.status();
  auto first = ReadPrompts("ferry-tiny-v3/heldout_docs.json").at(2),
       second = ReadPrompts("ferry-tiny-v3/heldout_bible.json").at(1);
  first.resize(100);
  second.resize(33);
  const std::vector<Request> requests = {LogitsRequest(first), LogitsRequest(second)};
  for (const auto& [compute, path] :
       {std::pair(Compute::kF32, ExchangePath::kPeer), std::pair(Compute::kBF16, ExchangePath::kPeer),
        std::pair(Compute::kBF16, ExchangePath::kAllToAllV)}) {
    RunSetup setup;
    setup.engine.compute = compute;
    setup.engine.prefill_chunk = 64;
    setup.placement_seed = compute == Compute::kF32 ? -1 : 3;
    setup.engine.moe.exchange.path = path;
    const auto got = RunRank(**transport, setup, requests);
    ASSERT_TRUE(got.ok()) << got.status();
    if ((*transport)->rank() == RankId(0)) {
      setup.placement_seed = -1;
      const auto want = RunLocally(setup, requests);
      for (size_t i = 0; i < requests.size(); ++i) {
        ASSERT_EQ(got->results[i].logits.size(), want[i].logits.size());
        EXPECT_EQ(
            std::memcmp(got->results[i].logits.data(), want[i].logits.data(), want[i].logits.size() * sizeof(float)),
            0);
        EXPECT_EQ(got->results[i].expert_idx, want[i].expert_idx);
      }
    }
    ASSERT_TRUE(Barrier(**transport, {"test"}).ok());
  }
}

}  // namespace
}  // namespace tokenferry

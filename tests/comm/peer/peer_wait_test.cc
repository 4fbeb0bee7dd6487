#include "comm/peer/peer_wait.h"

#include <gtest/gtest.h>

namespace tokenferry {
namespace {

// Rank 0 of four, of which 1 and 3 have ended.
class FirstOfFour : public PeerGroup {
 public:
  RankId rank() const override { return RankId(0); }
  int num_ranks() const override { return 4; }
  std::string host(RankId) const override { return "a"; }
  absl::Duration timeout() const override { return absl::Minutes(1); }
  absl::StatusOr<std::shared_ptr<PeerMemory>> Allocate(const CallSite&, int64_t) override { return None(); }
  absl::StatusOr<std::shared_ptr<PeerMemory>> Reserve(const CallSite&, int64_t) override { return None(); }
  absl::Status CheckAlive(RankId) const override { return None(); }
  std::string ProcessStateOf(RankId rank) const override { return rank.value % 2 == 1 ? "gone" : "running"; }
  void AddWaitSeconds(RankId, double) override {}

 private:
  static absl::Status None() { return absl::UnimplementedError("not needed here"); }
};

TEST(PeerWait, NamesWhoIsGoneBesideThoseThatAreWaitedFor) {
  const FirstOfFour peers;
  const CallSite site = {"plan", 1, 0};
  const std::vector<PendingRank> waits_for_2 = {{.rank = RankId(2), .host = "a", .process_state = "running"}};
  EXPECT_EQ(DescribePeerWait(peers, site, 7, waits_for_2),
            DescribeWait(site, 7, RankId(0), waits_for_2) + "; rank 1 on host a is gone; rank 3 on host a is gone");
  const std::vector<PendingRank> waits_for_1 = {{.rank = RankId(1), .host = "a", .process_state = "gone"}};
  EXPECT_EQ(DescribePeerWait(peers, site, 7, waits_for_1),
            DescribeWait(site, 7, RankId(0), waits_for_1) + "; rank 3 on host a is gone");
}

}  // namespace
}  // namespace tokenferry

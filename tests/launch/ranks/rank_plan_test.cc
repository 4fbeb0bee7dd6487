#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "launch/ranks/bootstrap.h"
#include "launch/ranks/rank_setup.h"

namespace tokenferry {
namespace {

using testing::HasSubstr;

constexpr uint32_t Bits(std::initializer_list<Isa> isas) {
  uint32_t mask = 0;
  for (const Isa isa : isas) mask |= uint32_t{1} << static_cast<int>(isa);
  return mask;
}

SharedFlags Flags(TransportChoice transport, int num_ranks) {
  SharedFlags flags;
  flags.transport = transport;
  flags.num_ranks = num_ranks;
  return flags;
}

TEST(PlanRanks, FollowsFlagsAndLauncher) {
  const LauncherInfo alone, of_three{.launched = true, .rank = 1, .num_ranks = 3},
      of_one{.launched = true, .rank = 0, .num_ranks = 1}, first_of_some{.launched = true, .tells_size = false},
      third_of_some{.launched = true, .rank = 2, .num_ranks = 3, .tells_size = false};
  const struct {
    SharedFlags flags;
    LauncherInfo launcher;
    TransportChoice transport;
    int num_ranks;  // 0: refused
    NcclUse nccl = NcclUse::kNever;
  } cases[] = {
      {Flags(TransportChoice::kAuto, 0), alone, TransportChoice::kLocal, 1},
      {Flags(TransportChoice::kAuto, 5), alone, TransportChoice::kLocal, 5},
      {Flags(TransportChoice::kLocal, 2), alone, TransportChoice::kLocal, 2},
      {Flags(TransportChoice::kMpi, 0), alone, TransportChoice::kMpi, 1},
      {Flags(TransportChoice::kMpi, 2), alone, TransportChoice::kMpi, 0},
      {Flags(TransportChoice::kAuto, 0), of_three, TransportChoice::kMpi, 3, NcclUse::kIfPossible},
      {Flags(TransportChoice::kAuto, 3), of_three, TransportChoice::kMpi, 3, NcclUse::kIfPossible},
      {Flags(TransportChoice::kMpi, 0), of_three, TransportChoice::kMpi, 3},
      {Flags(TransportChoice::kNccl, 0), of_three, TransportChoice::kMpi, 3, NcclUse::kAlways},
      {Flags(TransportChoice::kNccl, 2), alone, TransportChoice::kMpi, 0},
      {Flags(TransportChoice::kAuto, 2), of_three, TransportChoice::kMpi, 0},
      {Flags(TransportChoice::kLocal, 3), of_three, TransportChoice::kLocal, 0},
      {Flags(TransportChoice::kLocal, 3), of_one, TransportChoice::kLocal, 3},
      {Flags(TransportChoice::kAuto, 0), of_one, TransportChoice::kMpi, 1, NcclUse::kIfPossible},
      {Flags(TransportChoice::kAuto, 3), of_one, TransportChoice::kLocal, 3},
      // Of a launcher that tells no size, no rank takes itself for the only one by itself.
      {Flags(TransportChoice::kAuto, 0), first_of_some, TransportChoice::kMpi, 1, NcclUse::kIfPossible},
      {Flags(TransportChoice::kAuto, 0), third_of_some, TransportChoice::kMpi, 3, NcclUse::kIfPossible},
      {Flags(TransportChoice::kAuto, 1), first_of_some, TransportChoice::kMpi, 0},
      {Flags(TransportChoice::kAuto, 3), first_of_some, TransportChoice::kMpi, 0},
      {Flags(TransportChoice::kMpi, 3), third_of_some, TransportChoice::kMpi, 0},
      {Flags(TransportChoice::kLocal, 0), first_of_some, TransportChoice::kLocal, 1},
      {Flags(TransportChoice::kLocal, 2), first_of_some, TransportChoice::kLocal, 2},
      {Flags(TransportChoice::kLocal, 0), third_of_some, TransportChoice::kLocal, 0},
  };
  for (size_t i = 0; i < std::size(cases); ++i) {
    const auto plan = PlanRanks(cases[i].flags, cases[i].launcher);
    ASSERT_EQ(plan.ok(), cases[i].num_ranks > 0) << "case " << i << ": " << plan.status();
    if (!plan.ok()) continue;
    EXPECT_EQ(plan->transport, cases[i].transport) << "case " << i;
    EXPECT_EQ(plan->num_ranks, cases[i].num_ranks) << "case " << i;
    EXPECT_EQ(plan->nccl, cases[i].nccl) << "case " << i;
  }
}

// Sets variables of the environment for a test, instead of all that launchers set.
class Environment {
 public:
  explicit Environment(const std::vector<std::pair<std::string, std::string>>& variables) {
    for (const char* prefix :
         {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "MPI_LOCALNRANKS", "FLUX_JOB_SIZE", "PALS_RANKID",
          "PMIX_SIZE", "PMIX_RANK", "SLURM_STEP_NUM_TASKS", "SLURM_STEPID"}) {
      unsetenv(prefix);
    }
    for (const auto& [name, value] : variables) {
      setenv(name.c_str(), value.c_str(), 1);
      names_.push_back(name);
    }
  }
  ~Environment() {
    for (const std::string& name : names_) unsetenv(name.c_str());
  }

 private:
  std::vector<std::string> names_;
};

TEST(Launcher, IsKnownByItsVariables) {
  const struct {
    std::vector<std::pair<std::string, std::string>> variables;
    bool launched;
    int rank, num_ranks;
    const char* name;
    bool tells_size = true;
  } cases[] = {
      {{}, false, 0, 1, ""},
      {{{"OMPI_COMM_WORLD_SIZE", "4"}, {"OMPI_COMM_WORLD_RANK", "3"}}, true, 3, 4, "Open MPI"},
      {{{"PMI_SIZE", "3"}, {"PMI_RANK", "1"}, {"MPI_LOCALNRANKS", "3"}}, true, 1, 3, "MPICH"},
      {{{"MPI_LOCALNRANKS", "2"}, {"MPI_LOCALRANKID", "1"}}, true, 1, 2, "MPICH"},
      {{{"MV2_COMM_WORLD_SIZE", "5"}, {"MV2_COMM_WORLD_RANK", "4"}}, true, 4, 5, "MVAPICH"},
      {{{"FLUX_JOB_SIZE", "2"}, {"FLUX_TASK_RANK", "1"}}, true, 1, 2, "Flux"},
      {{{"PALS_RANKID", "0"}}, true, 0, 1, "PALS", false},
      {{{"PALS_RANKID", "2"}}, true, 2, 3, "PALS", false},
      {{{"PMIX_RANK", "0"}}, true, 0, 1, "a PMIx launcher", false},
      {{{"PMIX_RANK", "1"}, {"PMIX_SIZE", "4"}}, true, 1, 4, "a PMIx launcher"},
      {{{"PMIX_RANK", "1"}, {"SLURM_STEP_NUM_TASKS", "6"}}, true, 1, 6, "pmix"},
      {{{"SLURM_STEP_NUM_TASKS", "3"}, {"SLURM_PROCID", "2"}}, true, 2, 3, "srun"},
      {{{"SLURM_STEPID", "0"}, {"SLURM_NTASKS", "3"}, {"SLURM_PROCID", "0"}}, true, 0, 3, "srun"},
      // A batch script has the job's number of tasks; `srun --pty bash` is a step of one.
      {{{"SLURM_NTASKS", "8"}, {"SLURM_PROCID", "0"}}, false, 0, 1, ""},
      {{{"SLURM_STEP_NUM_TASKS", "1"}, {"SLURM_PROCID", "0"}}, false, 0, 1, ""},
      // mpirun starts one of its own per host with srun.
      {{{"OMPI_COMM_WORLD_SIZE", "2"}, {"SLURM_STEP_NUM_TASKS", "4"}}, true, 0, 2, "Open MPI"},
  };
  for (size_t i = 0; i < std::size(cases); ++i) {
    const Environment environment(cases[i].variables);
    const LauncherInfo info = GetLauncherInfo();
    EXPECT_EQ(info.launched, cases[i].launched) << "case " << i;
    EXPECT_EQ(info.rank, cases[i].rank) << "case " << i;
    EXPECT_EQ(info.num_ranks, cases[i].num_ranks) << "case " << i;
    EXPECT_EQ(info.tells_size, cases[i].tells_size) << "case " << i;
    EXPECT_THAT(info.name, HasSubstr(cases[i].name)) << "case " << i;
  }
}

TEST(Launcher, MustKnowWhatMpiKnows) {
  const LauncherInfo three{.launched = true, .rank = 0, .num_ranks = 3, .name = "mpiexec"};
  EXPECT_TRUE(CheckLauncher({}, 1).ok());
  EXPECT_TRUE(CheckLauncher(three, 3).ok());
  EXPECT_TRUE(CheckLauncher(three, 4).ok());  // local ranks of several hosts
  const absl::Status refused = CheckLauncher(three, 1);
  for (const char* word : {"mpiexec", "3 ranks", "knows of 1", "--ranks 3"}) {
    EXPECT_THAT(refused.message(), HasSubstr(word));
  }
}

TEST(Launcher, ThatTellsNoSizeHasStartedTwo) {
  LauncherInfo first{.launched = true, .tells_size = false, .name = "the mpiexec of PALS"};
  EXPECT_TRUE(CheckLauncher(first, 2).ok());
  const absl::Status refused = CheckLauncher(first, 1);
  for (const char* word : {"PALS does not tell", "MPI knows of 1", "--ranks N", "--transport local"}) {
    EXPECT_THAT(refused.message(), HasSubstr(word));
  }
  const LauncherInfo third{.launched = true, .rank = 2, .num_ranks = 3, .tells_size = false, .name = "PALS"};
  EXPECT_FALSE(CheckLauncher(third, 2).ok());
  EXPECT_TRUE(CheckLauncher(third, 3).ok());
}

TEST(AgreeOnIsa, TakesTheBestThatAllHave) {
  const uint32_t old = Bits({Isa::kPortable, Isa::kAvx2});
  const uint32_t recent = Bits({Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16});
  const uint32_t arm = Bits({Isa::kPortable, Isa::kNeon});
  EXPECT_EQ(AgreeOnIsa({recent}, "").value(), Isa::kAvx512Bf16);
  EXPECT_EQ(AgreeOnIsa({recent, old, recent}, "").value(), Isa::kAvx2);
  EXPECT_EQ(AgreeOnIsa({recent, arm}, "").value(), Isa::kPortable);
  EXPECT_EQ(AgreeOnIsa({recent, recent}, "avx512").value(), Isa::kAvx512);
  const auto refused = AgreeOnIsa({recent, old}, "avx512");
  EXPECT_THAT(refused.status().message(), HasSubstr("rank 1 does not have it"));
  EXPECT_THAT(refused.status().message(), HasSubstr("avx2"));
}

}  // namespace
}  // namespace tokenferry

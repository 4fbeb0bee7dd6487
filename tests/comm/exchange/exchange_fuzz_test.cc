// Random shapes, placements, formats, paths, hosts and device modes against the dense reference, with transports that
// check every call or are late at random.
//   TF_FUZZ_SEED=N   the first case's seed; case i has seed N + i (default: random)
//   TF_FUZZ_CASES=N  how many (default 300)
#include <gtest/gtest.h>

#include <cstdlib>
#include <numeric>
#include <random>
#include <thread>

#include "absl/strings/numbers.h"
#include "comm/transport/checked_transport.h"
#include "comm/transport/faulty_transport.h"
#include "comm/transport/local_transport.h"
#include "tests/comm/exchange/exchange_case.h"
#include "tests/comm/transport/hosted_transport.h"

namespace tokenferry {
namespace {

uint32_t FromEnvironment(const char* name, uint32_t otherwise) {
  uint32_t value = 0;
  const char* text = std::getenv(name);
  return text != nullptr && absl::SimpleAtoi(text, &value) ? value : otherwise;
}

enum class Decorator { kNone, kChecked, kLate, kCheckedLate };

struct FuzzCase {
  ExchangeCase problem;
  ExchangeRun run;
  Placement placement = Placement::Linear(1, 1);
  std::vector<int64_t> token_offsets;
  std::string hosts;  // one letter per rank
  Decorator decorator = Decorator::kNone;
};

template <class T>
T OneOf(std::mt19937& random, std::initializer_list<T> values) {
  return *(values.begin() + random() % values.size());
}
int Between(std::mt19937& random, int low, int high) { return low + static_cast<int>(random() % (high - low + 1)); }

// Experts on some ranks only, some of them more than once.
Placement SparsePlacement(std::mt19937& random, int num_experts, int num_ranks) {
  std::vector<int> used(num_ranks);
  std::iota(used.begin(), used.end(), 0);
  std::shuffle(used.begin(), used.end(), random);
  used.resize(Between(random, 1, num_ranks));
  std::vector<std::vector<int>> table(num_ranks);
  for (int e = 0; e < num_experts; ++e) {
    const int num_copies = random() % 4 == 0 ? Between(random, 1, static_cast<int>(used.size())) : 1;
    std::shuffle(used.begin(), used.end(), random);
    for (int c = 0; c < num_copies; ++c) table[used[c]].push_back(e);
  }
  return *Placement::FromTable(num_experts, std::move(table));
}

void DrawFormats(std::mt19937& random, FuzzCase& f) {
  const ExchangePath path = f.run.path;
  ExchangeCase& c = f.problem;
  if (random() % 2) c.wire_dtype = OneOf(random, {DType::kF8E4M3, DType::kI8});
  if (random() % 2) c.expert_dtype = DType::kBF16;
  if (random() % 3 == 0) c.output_dtype = DType::kBF16;
  if (path == ExchangePath::kTwoLevel && random() % 3 == 0) f.run.reduction = Reduction::kNode;
}

FuzzCase Draw(uint32_t seed) {
  std::mt19937 random(seed);
  FuzzCase f;
  const int num_ranks = Between(random, 1, 8), num_hosts = Between(random, 1, num_ranks);
  for (int r = 0; r < num_ranks; ++r) f.hosts += static_cast<char>('a' + Between(random, 0, num_hosts - 1));
  const int num_experts = OneOf(random, {Between(random, 1, 9), Between(random, 10, 64), Between(random, 65, 1024)});
  const int top_k = random() % 3 == 0 ? Between(random, 9, 32) : Between(random, 1, 8);
  const int hidden = OneOf(random, {Between(random, 1, 9), Between(random, 10, 140), Between(random, 141, 700)});
  // The reference looks at every expert of every choice.
  const int most_tokens = std::clamp(1'000'000 / (num_experts * top_k), 4, 80);
  const int num_tokens = random() % 8 == 0 ? 0 : Between(random, 1, most_tokens);
  f.run.path = kExchangePaths[random() % std::size(kExchangePaths)]->path;
  f.run.num_rounds = Between(random, 1, 3);
  f.run.device.num_threads = 1;
  f.run.device.isa = BestIsa(SupportedIsas());
  f.run.device.execution = OneOf(random, {CpuExecution::kEager, CpuExecution::kLazy});
  f.run.device.kernels = OneOf(random, {KernelSet::kFast, KernelSet::kReference});
  f.problem = RandomCase(seed, num_tokens, num_experts, top_k, hidden, OneOf(random, {DType::kF32, DType::kBF16}));
  DrawFormats(random, f);
  f.placement =
      OneOf(random, {Placement::Linear(num_experts, num_ranks), RandomPlacement(seed + 1, num_experts, num_ranks),
                     SparsePlacement(random, num_experts, num_ranks)});
  f.token_offsets = RandomTokenSplit(seed + 2, num_tokens, num_ranks);
  f.decorator = OneOf(random, {Decorator::kNone, Decorator::kChecked, Decorator::kLate, Decorator::kCheckedLate});
  return f;
}

void RunCase(const FuzzCase& f, uint32_t seed) {
  auto group = CreateLocalGroup(static_cast<int>(f.hosts.size()), {.timeout = absl::Seconds(60)});
  std::vector<std::thread> threads;
  for (auto& transport : group) {
    if (f.decorator == Decorator::kLate || f.decorator == Decorator::kCheckedLate) {
      FaultOptions faults;
      faults.max_skew = absl::Microseconds(300);
      faults.skew_seed = seed;
      transport = CreateFaultyTransport(std::move(transport), faults);
    }
    if (f.decorator == Decorator::kChecked || f.decorator == Decorator::kCheckedLate) {
      transport = CreateCheckedTransport(std::move(transport));
    }
    threads.emplace_back([&f, &transport] {
      HostedTransport hosted(*transport, f.hosts);
      RunExchangeCase(hosted, f.problem, f.placement, f.token_offsets, f.run);
      if (testing::Test::HasFailure()) hosted.Abort(absl::AbortedError("the test has failed"));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(ExchangeFuzz, EqualsTheDenseReference) {
  const uint32_t first = FromEnvironment("TF_FUZZ_SEED", std::random_device{}());
  const uint32_t num_cases = FromEnvironment("TF_FUZZ_CASES", 300);
  for (uint32_t i = 0; i < num_cases; ++i) {
    const FuzzCase f = Draw(first + i);
    RunCase(f, first + i);
    ASSERT_FALSE(HasFailure()) << "again with TF_FUZZ_CASES=1 TF_FUZZ_SEED=" << first + i << ": path "
                               << ExchangePathName(f.run.path) << ", hosts " << f.hosts;
  }
}

}  // namespace
}  // namespace tokenferry

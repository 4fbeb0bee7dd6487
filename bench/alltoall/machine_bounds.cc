#include "bench/alltoall/machine_bounds.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "bench/alltoall/round_trip.h"
#include "comm/transport/collectives.h"
#include "core/host/affinity.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/alltoall/machine_bounds.cc"
#include "core/kernels/simd_targets.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#if TF_SIMD_TARGET
HWY_BEFORE_NAMESPACE();
namespace tokenferry {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Sums `num_floats` floats (a multiple of 128, 512 bytes).
float ReadAll(const float* p, int64_t num_floats) {
  const hn::CappedTag<float, 16> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  for (int64_t i = 0; i < num_floats; i += 4 * lanes) {
    s0 = hn::Add(s0, hn::LoadU(d, p + i));
    s1 = hn::Add(s1, hn::LoadU(d, p + i + lanes));
    s2 = hn::Add(s2, hn::LoadU(d, p + i + 2 * lanes));
    s3 = hn::Add(s3, hn::LoadU(d, p + i + 3 * lanes));
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))));
}

// `steps` times 12 independent multiply-adds; returns the number of flops.
double RunFmas(int64_t steps, float* out) {
  const hn::CappedTag<float, 16> d;
  using V = hn::Vec<decltype(d)>;
  const V x = hn::Set(d, *out), y = hn::Set(d, 0.5f);
  // Different starts: equal chains would be computed once.
  V a = hn::Set(d, 0.1f), b = a + a, c = b + a, e = c + a, f = e + a, g = f + a, h = g + a, i = h + a, j = i + a,
    k = j + a, l = k + a, m = l + a;
  for (int64_t s = 0; s < steps; ++s) {
    a = hn::MulAdd(a, x, y), b = hn::MulAdd(b, x, y), c = hn::MulAdd(c, x, y), e = hn::MulAdd(e, x, y);
    f = hn::MulAdd(f, x, y), g = hn::MulAdd(g, x, y), h = hn::MulAdd(h, x, y), i = hn::MulAdd(i, x, y);
    j = hn::MulAdd(j, x, y), k = hn::MulAdd(k, x, y), l = hn::MulAdd(l, x, y), m = hn::MulAdd(m, x, y);
  }
  const V s = a + b + c + e + f + g + h + i + j + k + l + m;
  *out = hn::GetLane(hn::SumOfLanes(d, s));
  return 12.0 * 2.0 * static_cast<double>(steps) * static_cast<double>(hn::Lanes(d));
}

}  // namespace HWY_NAMESPACE
}  // namespace tokenferry
HWY_AFTER_NAMESPACE();
#endif  // TF_SIMD_TARGET

#if HWY_ONCE
namespace tokenferry {
namespace {

constexpr int64_t kReadBytesPerThread = int64_t{128} << 20, kFmaSteps = 2'000'000;
constexpr int kTries = 5;
constexpr double kRatioSeconds = 0.06;

float PlainReadAll(const float* p, int64_t n) {
  float s = 0;
  for (int64_t i = 0; i < n; ++i) s += p[i];
  return s;
}
double PlainRunFmas(int64_t steps, float* out) {
  float a = 0.5f;
  for (int64_t s = 0; s < steps; ++s) a = a * *out + 0.5f;
  *out = a;
  return 2.0 * static_cast<double>(steps);
}

// Flops per second of `num_threads` threads, thread i on CPU cpus[i].
double FlopRate(const std::vector<int>& cpus, int num_threads, Isa isa) {
  std::atomic<int> ready{0};
  std::atomic<bool> stop{false};
  std::vector<double> flops(num_threads);
  std::vector<std::thread> threads;
  for (int i = 0; i < num_threads; ++i) {
    threads.emplace_back([&, i] {
      if (!PinThisThread({&cpus[i], 1}).ok()) stop = true;
      ++ready;
      while (ready < num_threads && !stop) std::this_thread::yield();
      float out = 0.999f;
      while (!stop) flops[i] += TF_SIMD_CHOOSE(isa, RunFmas, PlainRunFmas)(10'000, &out);
    });
  }
  while (ready < num_threads) absl::SleepFor(absl::Microseconds(100));
  const double start = MonotonicSeconds();
  absl::SleepFor(absl::Seconds(kRatioSeconds));
  stop = true;
  const double seconds = MonotonicSeconds() - start;
  double sum = 0;
  for (int i = 0; i < num_threads; ++i) {
    threads[i].join();
    sum += flops[i];
  }
  return sum / seconds;
}

// One CPU of every core first, then the others.
std::vector<int> MachineCpus() {
  const std::vector<std::vector<int>> cores = MachineCores();
  std::vector<int> cpus;
  for (size_t i = 0;; ++i) {
    const size_t before = cpus.size();
    for (const std::vector<int>& core : cores) {
      if (i < core.size()) cpus.push_back(core[i]);
    }
    if (cpus.size() == before) return cpus;
  }
}

double MiddleOf(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

MemoryRead::MemoryRead(ThreadPool& pool, Isa isa, int64_t num_bytes)
    : pool_(pool),
      isa_(isa),
      floats_per_thread_(num_bytes / 512 / pool.num_threads() * 128),
      memory_(floats_per_thread_ * pool.num_threads(), 1.0f),
      sums_(pool.num_threads() * 16) {}

int64_t MemoryRead::num_bytes() const { return static_cast<int64_t>(memory_.size() * sizeof(float)); }

void MemoryRead::Run() {
  pool_.ParallelFor(pool_.num_threads(), [&](int64_t t, int) {
    sums_[t * 16] += TF_SIMD_CHOOSE(isa_, ReadAll, PlainReadAll)(&memory_[t * floats_per_thread_], floats_per_thread_);
  });
}

MachineBounds MeasureBounds(ThreadPool& pool, Isa isa, double (*seconds)()) {
  const int64_t threads = pool.num_threads();
  std::vector<float> sink(threads * 16, 0.999f);
  std::vector<double> flops(threads), rates;
  for (int i = 0; i < kTries; ++i) {
    const double start = seconds();
    pool.ParallelFor(threads, [&](int64_t t, int) {
      flops[t] = TF_SIMD_CHOOSE(isa, RunFmas, PlainRunFmas)(kFmaSteps, &sink[t * 16]);
    });
    rates.push_back(flops[0] * threads / (seconds() - start));
  }
  MemoryRead read(pool, isa, kReadBytesPerThread * pool.num_threads());
  double read_seconds = 0;
  for (int i = 0; i < kTries; ++i) {
    const double start = seconds();
    read.Run();
    const double took = seconds() - start;
    read_seconds = i == 0 ? took : std::min(read_seconds, took);
  }
  return {static_cast<double>(read.num_bytes()) / read_seconds, MiddleOf(rates)};
}

double TwoCoreRatio(Isa isa) {
  const std::vector<int> cpus = MachineCpus();
  if (cpus.size() < 2) return 0;
  const double one = FlopRate(cpus, 1, isa), two = FlopRate(cpus, 2, isa);
  return one > 0 ? two / one : 0;
}

absl::StatusOr<double> TwoCoreRatioOfGroup(Transport& transport, Isa isa) {
  // Waiting for a message is work: the others sleep longer than it takes.
  TF_RETURN_IF_ERROR(Barrier(transport, {.phase = "bench: machine state"}));
  double ratio = 0;
  if (transport.rank() == RankId(0)) {
    absl::SleepFor(absl::Milliseconds(5));
    ratio = TwoCoreRatio(isa);
  } else {
    absl::SleepFor(absl::Milliseconds(200));
  }
  std::string bytes(sizeof(ratio), '\0');
  std::memcpy(bytes.data(), &ratio, sizeof(ratio));
  TF_ASSIGN_OR_RETURN(bytes, Broadcast(transport, {.phase = "bench: machine state"}, RankId(0), bytes));
  if (bytes.size() != sizeof(ratio)) return absl::DataLossError("bench: rank 0's machine state has a wrong size");
  std::memcpy(&ratio, bytes.data(), sizeof(ratio));
  return ratio;
}

}  // namespace tokenferry
#endif  // HWY_ONCE

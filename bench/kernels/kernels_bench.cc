// Matrix products, the expert FFN and the combine's sums against this machine's own bounds, measured in the same run on
// the same threads: read bandwidth (bytes of weights) and the fused multiply-add peak. `of_bound` = max(weight bytes /
// read bandwidth, flops / FMA peak) / time (printed as a rate, like the others). Weights cycle through more memory than
// the caches hold. Row 0 of every result is compared with the reference before and after timing. Flags: Google
// Benchmark's; TF_BENCH_THREADS, TF_BENCH_ISA.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "bench/alltoall/machine_bounds.h"
#include "comm/ops/exchange_ops.h"
#include "core/check.h"
#include "core/device/cpu_device.h"
#include "core/kernels/matmul.h"
#include "experts/ffn/expert_ffn.h"

namespace tokenferry {
namespace {

int NumThreads() {
  const char* text = std::getenv("TF_BENCH_THREADS");
  return text == nullptr ? 1 : std::max(1, std::atoi(text));
}

Isa BenchIsa() {
  const char* text = std::getenv("TF_BENCH_ISA");
  if (text == nullptr) return BestIsa(SupportedIsas());
  const absl::StatusOr<Isa> isa = IsaFromName(text);
  TF_CHECK(isa.ok());
  TF_CHECK(SupportedIsas() & (1u << static_cast<int>(*isa)));
  return *isa;
}

// With one thread, its CPU time, so that other work on the machine does not count; else wall time.
double Seconds() {
  timespec now;
  clock_gettime(NumThreads() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// The matching choice of Google Benchmark's clock.
void UseClock(benchmark::internal::Benchmark* b) {
  if (NumThreads() > 1) b->UseRealTime();
}

// With all threads.
const MachineBounds& MeasuredBounds() {
  static const MachineBounds bounds = [] {
    ThreadPool pool(NumThreads());
    return MeasureBounds(pool, BenchIsa(), Seconds);
  }();
  return bounds;
}

void Report(benchmark::State& state, double bytes, double flops) {
  const MachineBounds& bounds = MeasuredBounds();
  const double bound = std::max(bytes / bounds.read_bytes_per_second, flops / bounds.flops_per_second);
  using benchmark::Counter;
  state.counters["GB"] = Counter(bytes * 1e-9, Counter::kIsIterationInvariantRate);
  state.counters["GFLOP"] = Counter(flops * 1e-9, Counter::kIsIterationInvariantRate);
  state.counters["of_bound"] = Counter(bound, Counter::kIsIterationInvariantRate);
}

struct BenchDevice {
  std::unique_ptr<Device> device;
  std::vector<Buffer> buffers;
  std::unique_ptr<Stream> stream;

  explicit BenchDevice(CpuDeviceOptions options) : device(CreateCpuDevice(std::move(options))) {
    stream = std::move(device->CreateStream()).value();
  }
  void* Allocate(size_t num_bytes) {
    buffers.push_back(std::move(device->Allocate(num_bytes, MemoryKind::kDevice, "bench")).value());
    return buffers.back().data();
  }
  template <class T>
  T* Upload(const std::vector<T>& host) {
    void* data = Allocate(host.size() * sizeof(T));
    stream->CopyToDevice(data, host.data(), host.size() * sizeof(T));
    return static_cast<T*>(data);
  }
  std::vector<float> Download(const float* data, size_t size) {
    std::vector<float> host(size);
    stream->CopyToHost(host.data(), data, size * sizeof(float));
    TF_CHECK(stream->Synchronize().ok());
    return host;
  }
};

// Random codes in the blocks of a GGUF file, with scales that keep values within [-1, 1]: a block's 16-bit numbers are
// 2^-12 and of alternating sign, its own scales of 6 or 8 bits anything.
WeightView MakeBlocks(BenchDevice& device, DType dtype, int64_t rows, int64_t cols) {
  static std::minstd_rand random(6);
  WeightView w = {.format = {.dtype = dtype}, .rows = rows, .cols = cols};
  std::vector<uint8_t> bytes(BytesOf(w.format, rows, cols).data);
  for (size_t i = 0; i + 4 <= bytes.size(); i += 4) {
    const uint32_t bits = random() ^ (random() << 16);
    std::memcpy(&bytes[i], &bits, sizeof(bits));
  }
  const int64_t size = BlockOf(dtype).bytes;
  for (size_t b = 0; b < bytes.size(); b += size) {
    constexpr uint16_t kScales[2] = {0x0C00, 0x8C00};
    if (dtype == DType::kMXFP4) {
      bytes[b] = 120;  // 2^-7, of numbers up to 6
    } else {
      const bool has_two =
          dtype == DType::kQ4_1 || dtype == DType::kQ5_1 || dtype == DType::kQ4_K || dtype == DType::kQ5_K;
      std::memcpy(&bytes[b + (dtype == DType::kQ6_K ? 208 : 0)], kScales, has_two ? 4 : 2);
    }
  }
  w.data = device.Upload(bytes);
  return w;
}

// Values within [-1, 1]; E4M3 codes below 1.
WeightView MakeWeight(BenchDevice& device, DType dtype, int64_t rows, int64_t cols) {
  if (IsBlockType(dtype)) return MakeBlocks(device, dtype, rows, cols);
  static std::minstd_rand random(7);
  std::vector<uint32_t> words(rows * cols * DTypeBytes(dtype) / 4);
  for (uint32_t& word : words) {
    const uint32_t bits = random() ^ (random() << 16);
    word = dtype == DType::kF32 ? (bits & 0x80FFFFFFu) | 0x3E000000u
                                : bits & (dtype == DType::kBF16 ? 0xBF7FBF7Fu : 0xB7B7B7B7u);
    if (dtype == DType::kBF16) word |= 0x3C003C00u;
  }
  WeightView w = {.format = {.dtype = dtype}, .rows = rows, .cols = cols};
  w.data = device.Upload(words);
  if (dtype == DType::kF8E4M3) {
    w.format = F8BlockWeights::Of(128, 128);
    w.scale_stride = (cols + 127) / 128;
    w.scales = device.Upload(std::vector<float>(w.scale_stride * ((rows + 127) / 128), 0.37f));
  }
  return w;
}

std::vector<float> RandomRows(int64_t size) {
  std::minstd_rand random(8);
  std::vector<float> x(size);
  for (float& v : x) v = static_cast<float>(random() % 2001) / 1000.0f - 1.0f;
  return x;
}

// Row 0 of args.y against the reference: the same bits, but for vdpbf16ps (see core/kernels/matmul.h), which must agree
// within the rounding of two f32 sums of terms of at most |x| |w| <= 1 each (2 * 2 * cols / 32 * 2^-23 * cols).
void CheckRow(BenchDevice& device, const MatMulArgs& args) {
  BenchDevice reference({.kernels = KernelSet::kReference});
  MatMulArgs row = args;  // device memory of a CPU device is this process's
  row.num_rows = 1;
  row.y = static_cast<float*>(reference.Allocate(args.w.rows * sizeof(float)));
  MatMul(*reference.stream, row);
  const std::vector<float> expected = reference.Download(row.y, args.w.rows);
  const std::vector<float> got = device.Download(args.y, args.w.rows);
  const bool own_order = BenchIsa() == Isa::kAvx512Bf16 && args.compute == Compute::kBF16;
  if (!own_order) TF_CHECK_EQ(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)), 0);
  const double bound = 0.125 * static_cast<double>(args.w.cols) * static_cast<double>(args.w.cols) * 0x1p-23;
  for (size_t i = 0; i < got.size(); ++i) TF_CHECK_LE(std::abs(got[i] - expected[i]), bound);
}

// Args: rows, dtype, compute.
void BM_MatMul(benchmark::State& state) {
  constexpr int64_t kSize = 2048, kWeightMemory = int64_t{192} << 20;
  const int64_t rows = state.range(0);
  const auto dtype = static_cast<DType>(state.range(1));
  BenchDevice device({.num_threads = NumThreads(), .isa = BenchIsa()});
  std::vector<WeightView> weights;
  const int64_t weight_bytes = BytesOfElements(dtype, kSize * kSize);
  const int64_t num_weights = rows <= 16 ? kWeightMemory / weight_bytes : 1;
  for (int64_t i = 0; i < num_weights; ++i) weights.push_back(MakeWeight(device, dtype, kSize, kSize));
  MatMulArgs args;
  args.x = device.Upload(RandomRows(rows * kSize));
  args.x_stride = args.y_stride = kSize;
  args.num_rows = rows;
  args.y = static_cast<float*>(device.Allocate(rows * kSize * sizeof(float)));
  args.compute = static_cast<Compute>(state.range(2));
  args.w = weights[0];
  MatMul(*device.stream, args);
  CheckRow(device, args);
  size_t next = 0;
  for (auto _ : state) {
    args.w = weights[next++ % weights.size()];
    MatMul(*device.stream, args);
    TF_CHECK(device.stream->Synchronize().ok());
  }
  CheckRow(device, args);
  Report(state, static_cast<double>(weight_bytes), 2.0 * rows * kSize * kSize);
}

void MatMulShapes(benchmark::internal::Benchmark* b) {
  for (int64_t rows : {1, 2, 4, 8, 64, 512}) {
    for (DType dtype : {DType::kF32, DType::kBF16, DType::kF8E4M3}) {
      for (Compute compute : {Compute::kF32, Compute::kBF16}) {
        b->Args({rows, static_cast<int64_t>(dtype), static_cast<int64_t>(compute)});
      }
    }
  }
}
BENCHMARK(BM_MatMul)->Apply(MatMulShapes)->ArgNames({"rows", "dtype", "compute"})->Apply(UseClock)->MinTime(0.2);

// The same for every type of GGUF's blocks, whose name is the label.
void BM_MatMulBlocks(benchmark::State& state) {
  state.SetLabel(std::string(DTypeName(static_cast<DType>(state.range(1)))));
  BM_MatMul(state);
}

void BlockShapes(benchmark::internal::Benchmark* b) {
  for (int64_t rows : {1, 8, 64}) {
    for (int dtype = static_cast<int>(DType::kQ4_0); dtype <= static_cast<int>(DType::kMXFP4); ++dtype) {
      for (Compute compute : {Compute::kF32, Compute::kBF16}) b->Args({rows, dtype, static_cast<int64_t>(compute)});
    }
  }
}
BENCHMARK(BM_MatMulBlocks)->Apply(BlockShapes)->ArgNames({"rows", "dtype", "compute"})->Apply(UseClock)->MinTime(0.2);

// Args: selections per slot, dtype. 16 experts of hidden 2048 and intermediate 1024, bf16 products.
void BM_ExpertFfn(benchmark::State& state) {
  constexpr int64_t kHidden = 2048, kInner = 1024, kSlots = 16;
  const int64_t per_slot = state.range(0), num_selections = per_slot * kSlots;
  const auto dtype = static_cast<DType>(state.range(1));
  BenchDevice device({.num_threads = NumThreads(), .isa = BenchIsa()});
  std::vector<WeightView> gate, up, down;
  std::vector<int64_t> offsets = {0};
  for (int64_t s = 0; s < kSlots; ++s) {
    gate.push_back(MakeWeight(device, dtype, kInner, kHidden));
    up.push_back(MakeWeight(device, dtype, kInner, kHidden));
    down.push_back(MakeWeight(device, dtype, kHidden, kInner));
    offsets.push_back(offsets.back() + per_slot);
  }
  std::vector<int32_t> row_idx(num_selections);
  for (int64_t i = 0; i < num_selections; ++i) row_idx[i] = static_cast<int32_t>(i % per_slot);
  ExpertFfnArgs args;
  args.rows = {.rows = device.Upload(RandomRows(per_slot * kHidden)),
               .hidden = kHidden,
               .row_stride = kHidden,
               .row_idx = device.Upload(row_idx),
               .slot_offsets = device.Upload(offsets),
               .max_selections = num_selections};
  args.num_slots = kSlots;
  args.intermediate = kInner;
  args.gate = {gate.front(), device.Upload(gate)};
  args.up = {up.front(), device.Upload(up)};
  args.down = {down.front(), device.Upload(down)};
  args.scratch = static_cast<float*>(device.Allocate(num_selections * 2 * kInner * sizeof(float)));
  args.out = MakeMatrix<float>(device.Allocate(num_selections * kHidden * sizeof(float)), num_selections, kHidden);
  args.compute = Compute::kBF16;
  for (auto _ : state) {
    ExpertFfn(*device.stream, args);
    TF_CHECK(device.stream->Synchronize().ok());
  }
  const double parameters = 3.0 * kHidden * kInner;
  Report(state, kSlots * parameters * DTypeBytes(dtype), 2.0 * num_selections * parameters);
}
BENCHMARK(BM_ExpertFfn)
    ->ArgsProduct({{1, 4, 64}, {static_cast<int64_t>(DType::kBF16), static_cast<int64_t>(DType::kF8E4M3)}})
    ->ArgNames({"per_slot", "dtype"})
    ->Apply(UseClock)
    ->MinTime(0.2);

// Args: tokens, dtype of the rows. Sums of 8 rows of 7168 each, in random order from a memory larger than the caches;
// the bound counts each row read once and each sum written once.
void BM_CombineRows(benchmark::State& state) {
  constexpr int64_t kHidden = 7168, kTopK = 8, kRows = 8192;
  const int64_t tokens = state.range(0);
  const auto dtype = static_cast<DType>(state.range(1));
  BenchDevice device({.num_threads = NumThreads(), .isa = BenchIsa()});
  std::vector<int32_t> rows(kRows), k;
  std::iota(rows.begin(), rows.end(), 0);
  std::shuffle(rows.begin(), rows.end(), std::minstd_rand(9));
  std::vector<int64_t> offsets = {0};
  for (int64_t t = 0; t < tokens; ++t) {
    for (int i = 0; i < kTopK; ++i) k.push_back(i);
    offsets.push_back(offsets.back() + kTopK);
  }
  const std::vector<uint32_t> bits(kRows * kHidden * DTypeBytes(dtype) / 4, 0x3F803F80u);
  CombineRowsArgs args;
  args.rows = ConstFloatMatrix(device.Upload(bits), dtype, kRows, kHidden);
  args.offsets = device.Upload(offsets);
  const int32_t* selection = device.Upload(rows);
  args.k = device.Upload(k);
  args.weight = MakeMatrix<const float>(device.Upload(std::vector<float>(tokens * kTopK, 0.125f)), tokens, kTopK);
  args.out = FloatMatrix(device.Allocate(tokens * kHidden * sizeof(float)), DType::kF32, tokens, kHidden);
  int64_t next = 0;
  for (auto _ : state) {
    args.selection = selection + next;
    next = (next + tokens * kTopK) % kRows;
    device.stream->Launch(kCombineRows, args);
    TF_CHECK(device.stream->Synchronize().ok());
  }
  const float one = dtype == DType::kF32 ? std::bit_cast<float>(bits[0]) : 1.0f;
  for (const float sum : device.Download(args.out.as<const float>().data, tokens * kHidden)) TF_CHECK_EQ(sum, one);
  Report(state, static_cast<double>(tokens * kHidden * (kTopK * DTypeBytes(dtype) + sizeof(float))),
         2.0 * tokens * kTopK * kHidden);
}
BENCHMARK(BM_CombineRows)
    ->ArgsProduct({{16, 128, 1024}, {static_cast<int64_t>(DType::kBF16), static_cast<int64_t>(DType::kF32)}})
    ->ArgNames({"tokens", "dtype"})
    ->Apply(UseClock)
    ->MinTime(0.2);

}  // namespace
}  // namespace tokenferry

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  using namespace tokenferry;  // NOLINT
  const MachineBounds& bounds = MeasuredBounds();
  std::printf("%d thread(s), %s: read %.1f GB/s, f32 multiply-add peak %.1f GFLOP/s\n", NumThreads(),
              std::string(IsaName(BenchIsa())).c_str(), bounds.read_bytes_per_second * 1e-9,
              bounds.flops_per_second * 1e-9);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

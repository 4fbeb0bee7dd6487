// The GPU's kernels against its own memory: seconds per launch (wall time of many launches and one wait), the bytes
// that a launch has to move and the operations it has to do, as rates, and `of_copy` = bytes per second over those of a
// copy inside the GPU's memory (read and written bytes both count), measured in the same run. Products' first row is
// compared with the reference before and after the timing: bit for bit in f32, within a bound in bf16, where tensor
// cores have an order of their own. Without a GPU: says so and ends with status 0. cuda_kernels_bench [--json FILE]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "comm/ops/exchange_ops.h"
#include "core/check.h"
#include "core/device/cpu_device.h"
#include "core/device/cuda_device.h"
#include "core/host/clock.h"
#include "core/kernels/gather_rows.h"
#include "core/kernels/matmul.h"
#include "nlohmann/json.hpp"

namespace tokenferry {
namespace {

// A device, a stream and what has been allocated.
class Bench {
 public:
  explicit Bench(std::unique_ptr<Device> device) : device_(std::move(device)), stream_(*device_->CreateStream()) {}

  Stream& stream() { return *stream_; }
  Device& device() { return *device_; }
  template <class T>
  T* Allocate(size_t size) {
    auto buffer = device_->Allocate(size * sizeof(T), MemoryKind::kDevice, "bench");
    TF_CHECK_EQ(buffer.status(), absl::OkStatus());
    buffers_.push_back(*std::move(buffer));
    return buffers_.back().as<T>();
  }
  template <class T>
  T* Upload(const std::vector<T>& values) {
    T* data = Allocate<T>(values.size());
    stream_->CopyToDevice(data, values.data(), values.size() * sizeof(T));
    return data;
  }
  void Wait() { TF_CHECK_EQ(stream_->Synchronize(), absl::OkStatus()); }
  void FreeAll() { buffers_.clear(); }

 private:
  std::unique_ptr<Device> device_;
  std::vector<Buffer> buffers_;
  std::unique_ptr<Stream> stream_;
};

// Seconds per call of `launch`: as many as take a fifth of a second, after a first one.
double SecondsPerLaunch(Bench& bench, const std::function<void()>& launch) {
  launch();
  bench.Wait();
  int64_t num_launches = 1;
  for (;;) {
    const Stopwatch watch;
    for (int64_t i = 0; i < num_launches; ++i) launch();
    bench.Wait();
    const double seconds = watch.seconds();
    if (seconds > 0.2) return seconds / static_cast<double>(num_launches);
    num_launches = std::max(num_launches * 2, static_cast<int64_t>(0.25 * num_launches / std::max(seconds, 1e-6)));
  }
}

struct Result {
  std::string name;
  double seconds = 0, bytes = 0, flops = 0;
};

Result TimeCopy(Bench& bench) {
  constexpr size_t kBytes = size_t{1} << 29;
  char *src = bench.Allocate<char>(kBytes), *dst = bench.Allocate<char>(kBytes);
  bench.stream().Fill(src, 1, kBytes);
  return {"copy on the device", SecondsPerLaunch(bench, [&] { bench.stream().CopyOnDevice(dst, src, kBytes); }),
          2.0 * kBytes, 0};
}

std::vector<float> Random(size_t size) {
  static std::mt19937 rng(1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> values(std::min<size_t>(size, 1 << 20));
  for (float& x : values) x = uniform(rng);
  values.resize(size);  // the rest repeats the beginning: numbers of any size take the same time
  for (size_t i = size_t{1} << 20; i < size; ++i) values[i] = values[i - (1 << 20)];
  return values;
}

struct ProductCase {
  const char* name;
  int64_t num_rows, num_groups, outs, cols;  // num_groups 0: a dense product
  WeightFormat format;
  Compute compute;
};

std::vector<uint8_t> WeightBytes(const ProductCase& c) {
  const std::vector<float> values = Random(c.outs * c.cols);
  std::vector<uint8_t> bytes(values.size() * DTypeBytes(c.format.dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    if (c.format.dtype == DType::kF32) std::memcpy(&bytes[4 * i], &values[i], 4);
    if (c.format.dtype == DType::kBF16) reinterpret_cast<BF16*>(bytes.data())[i] = ToBF16(values[i]);
    if (c.format.dtype == DType::kF8E4M3) bytes[i] = ToF8E4M3(values[i]).bits;
  }
  return bytes;
}

// Row 0 of the product, by the reference.
std::vector<float> FirstRow(const ProductCase& c, const std::vector<float>& x, const WeightView& host_weight) {
  const auto cpu = CreateCpuDevice({.kernels = KernelSet::kReference});
  const auto stream = *cpu->CreateStream();
  std::vector<float> y(c.outs);
  MatMul(*stream, {.x = x.data(),
                   .x_stride = c.cols,
                   .num_rows = 1,
                   .w = host_weight,
                   .y = y.data(),
                   .y_stride = c.outs,
                   .compute = c.compute});
  TF_CHECK_EQ(stream->Synchronize(), absl::OkStatus());
  return y;
}

Result TimeProduct(Bench& bench, const ProductCase& c) {
  const std::vector<float> x = Random(c.num_rows * c.cols);
  const std::vector<uint8_t> bytes = WeightBytes(c);
  const int64_t num_scales = c.format.has_scales() ? ((c.outs + 127) / 128) * ((c.cols + 127) / 128) : 0;
  const std::vector<float> scales(num_scales, 0.01f);
  const auto view = [&](const void* data, const float* s) {
    return WeightView{.format = c.format,
                      .data = data,
                      .rows = c.outs,
                      .cols = c.cols,
                      .scales = num_scales > 0 ? s : nullptr,
                      .scale_stride = (c.cols + 127) / 128};
  };
  const int64_t num_weights = std::max<int64_t>(1, c.num_groups);
  std::vector<WeightView> weights;
  for (int64_t g = 0; g < num_weights; ++g) weights.push_back(view(bench.Upload(bytes), bench.Upload(scales)));
  const float* device_x = bench.Upload(x);
  float* y = bench.Allocate<float>(c.num_rows * c.outs);
  std::vector<int64_t> offsets;
  for (int64_t g = 0; g <= num_weights; ++g) offsets.push_back(c.num_rows * g / num_weights);
  const int64_t* device_offsets = bench.Upload(offsets);
  const WeightView* device_weights = bench.Upload(weights);
  const auto launch = [&] {
    if (c.num_groups == 0) {
      MatMul(bench.stream(), {.x = device_x,
                              .x_stride = c.cols,
                              .num_rows = c.num_rows,
                              .w = weights[0],
                              .y = y,
                              .y_stride = c.outs,
                              .compute = c.compute});
    } else {
      GroupedMatMul(bench.stream(), {.x = device_x,
                                     .x_stride = c.cols,
                                     .offsets = device_offsets,
                                     .num_groups = c.num_groups,
                                     .max_rows = c.num_rows,
                                     .weights = {weights[0], device_weights},
                                     .y = y,
                                     .y_stride = c.outs,
                                     .compute = c.compute});
    }
  };
  // matmul_mma_cuda_test.cc derives it, for sums of magnitudes of at most one per column; FP8's scale is 0.01.
  const double magnitudes = static_cast<double>(c.cols) * (c.format.has_scales() ? 0.01 : 1.0);
  const double steps = static_cast<double>(c.cols) / 16;
  const double tolerance =
      c.compute == Compute::kF32 ? 0 : ((steps + 3) * 0x1p-23 + (steps + 6) * 0x1p-24) * magnitudes;
  const std::vector<float> want = FirstRow(c, x, view(bytes.data(), scales.data()));
  const auto check = [&] {
    std::vector<float> got(c.outs);
    bench.stream().CopyToHost(got.data(), y, got.size() * sizeof(float));
    bench.Wait();
    for (size_t o = 0; o < got.size(); ++o) TF_CHECK_LE(std::abs(got[o] - want[o]), tolerance);
  };
  launch();
  check();
  const double seconds = SecondsPerLaunch(bench, launch);
  check();
  const double weight_bytes = static_cast<double>(num_weights * bytes.size());
  return {c.name, seconds, weight_bytes + 4.0 * c.num_rows * (c.cols + c.outs), 2.0 * c.num_rows * c.outs * c.cols};
}

Result TimeGather(Bench& bench) {
  constexpr int64_t kRows = 4096, kCols = 7168;
  std::vector<int32_t> idx(kRows);
  std::iota(idx.rbegin(), idx.rend(), 0);
  const BF16* src = bench.Allocate<BF16>(kRows * kCols);
  GatherRowsArgs args{MatrixView<const BF16>{src, kRows, kCols, kCols}, bench.Upload(idx), kRows,
                      bench.Allocate<BF16>(kRows * kCols), DType::kBF16};
  return {"gather 4096 rows of 7168 bf16", SecondsPerLaunch(bench, [&] { bench.stream().Launch(kGatherRows, args); }),
          2.0 * kRows * kCols * 2, 0};
}

Result TimeCombine(Bench& bench) {
  constexpr int64_t kTokens = 512, kTopK = 8, kCols = 7168, kSelections = kTokens * kTopK;
  std::vector<int64_t> offsets(kTokens + 1);
  for (int64_t t = 0; t <= kTokens; ++t) offsets[t] = t * kTopK;
  std::vector<int32_t> selection(kSelections), k(kSelections);
  for (int32_t i = 0; i < kSelections; ++i) {
    selection[i] = kSelections - 1 - i;
    k[i] = i % kTopK;
  }
  const float* rows = bench.Upload(Random(kSelections * kCols));
  CombineRowsArgs args;
  args.rows = MatrixView<const float>{rows, kSelections, kCols, kCols};
  args.offsets = bench.Upload(offsets);
  args.selection = bench.Upload(selection);
  args.k = bench.Upload(k);
  args.weight = {bench.Upload(Random(kSelections)), kTokens, kTopK, kTopK};
  args.out = MatrixView<float>{bench.Allocate<float>(kTokens * kCols), kTokens, kCols, kCols};
  return {"combine 512 tokens x 8 rows of 7168 f32",
          SecondsPerLaunch(bench, [&] { bench.stream().Launch(kCombineRows, args); }),
          4.0 * (kSelections + kTokens) * kCols, 2.0 * kSelections * kCols};
}

// DeepSeek-V3's matrices; 8 experts of 16 rows are a decode step of 128 tokens on one of 32 ranks.
const std::vector<ProductCase> kProducts = {
    {"dense f32 weights, 1 row, 7168 -> 2048", 1, 0, 2048, 7168, {.dtype = DType::kF32}, Compute::kF32},
    {"dense bf16 weights, 1 row, 7168 -> 2048", 1, 0, 2048, 7168, {.dtype = DType::kBF16}, Compute::kF32},
    {"dense bf16 weights, 256 rows, 7168 -> 2048", 256, 0, 2048, 7168, {.dtype = DType::kBF16}, Compute::kF32},
    {"grouped fp8, 8 x 1 rows, 7168 -> 2048", 8, 8, 2048, 7168, F8BlockWeights::Of(128, 128), Compute::kBF16},
    {"grouped fp8, 8 x 16 rows, 7168 -> 2048", 128, 8, 2048, 7168, F8BlockWeights::Of(128, 128), Compute::kBF16},
    {"grouped bf16, 8 x 16 rows, 7168 -> 2048", 128, 8, 2048, 7168, {.dtype = DType::kBF16}, Compute::kBF16},
    {"grouped bf16, 8 x 256 rows, 7168 -> 2048", 2048, 8, 2048, 7168, {.dtype = DType::kBF16}, Compute::kBF16},
};

int Run(const std::string& json_file) {
  auto device = CreateCudaDevice({});
  if (!device.ok()) {
    absl::PrintF("cuda_kernels_bench: skipped: %s\n", device.status().message());
    return 0;
  }
  Bench bench(*std::move(device));
  std::vector<Result> results = {TimeCopy(bench)};
  const auto add = [&](const Result& result) {
    results.push_back(result);
    bench.FreeAll();
  };
  bench.FreeAll();
  add(TimeGather(bench));
  add(TimeCombine(bench));
  for (const ProductCase& c : kProducts) add(TimeProduct(bench, c));
  const double copy_rate = results[0].bytes / results[0].seconds;
  nlohmann::json json = {{"device", bench.device().ToString()}, {"results", nlohmann::json::array()}};
  absl::PrintF("%-46s %12s %10s %10s %8s\n", bench.device().ToString(), "us", "GB/s", "GFLOP/s", "of_copy");
  for (const Result& r : results) {
    const double rate = r.bytes / r.seconds;
    absl::PrintF("%-46s %12.2f %10.1f %10.1f %8.3f\n", r.name, r.seconds * 1e6, rate * 1e-9, r.flops / r.seconds * 1e-9,
                 rate / copy_rate);
    json["results"].push_back({{"name", r.name},
                               {"seconds", r.seconds},
                               {"bytes_per_second", rate},
                               {"flops_per_second", r.flops / r.seconds},
                               {"of_copy", rate / copy_rate}});
  }
  if (!json_file.empty()) std::ofstream(json_file) << json.dump(1) << "\n";
  return 0;
}

}  // namespace
}  // namespace tokenferry

int main(int argc, char** argv) {
  if (argc != 1 && !(argc == 3 && std::string(argv[1]) == "--json")) {
    std::fprintf(stderr, "usage: cuda_kernels_bench [--json FILE]\n");
    return 2;
  }
  return tokenferry::Run(argc == 3 ? argv[2] : "");
}

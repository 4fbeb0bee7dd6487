// The GPU's kernels against what its units can do: seconds per launch (wall time of many launches and one wait), the
// bytes that a launch has to move and the operations it has to do, as rates, and `of_bound` = the least time that
// either takes over the time measured. Memory's bound is the rate of a copy inside the GPU (read and written bytes both
// count), measured in the same run; that of operations is clock x processors x what the architecture's units do in a
// cycle, dense bf16 on tensor cores or f32 (NVIDIA's figures for A100, H100 and B200; 0 and no bound elsewhere).
// Products' first row is compared with the reference before and after the timing: bit for bit in f32, within a bound in
// bf16, where tensor cores have an order of their own. Without a GPU: says so and ends with status 0.
// cuda_kernels_bench [--json FILE]
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <random>

#include "absl/strings/str_format.h"
#include "bench/kernels/cuda_bench.h"
#include "core/device/cpu_device.h"
#include "core/device/cuda_device.h"
#include "core/host/clock.h"
#include "core/kernels/matmul.h"
#include "nlohmann/json.hpp"

namespace tokenferry {

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

std::vector<float> Random(size_t size) {
  static std::mt19937 rng(1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> values(std::min<size_t>(size, 1 << 20));
  for (float& x : values) x = uniform(rng);
  values.resize(size);  // the rest repeats the beginning: numbers of any size take the same time
  for (size_t i = size_t{1} << 20; i < size; ++i) values[i] = values[i - (1 << 20)];
  return values;
}

namespace {

Result TimeCopy(Bench& bench) {
  constexpr size_t kBytes = size_t{1} << 29;
  char *src = bench.Allocate<char>(kBytes), *dst = bench.Allocate<char>(kBytes);
  bench.stream().Fill(src, 1, kBytes);
  return {"copy on the device", SecondsPerLaunch(bench, [&] { bench.stream().CopyOnDevice(dst, src, kBytes); }),
          2.0 * kBytes};
}

// Operations per second of the GPU's units; 0 where its architecture is not known.
double PeakFlops(Units units) {
  struct Cycle {
    int major, minor;
    double tensor, f32;  // of a multiprocessor: dense bf16 with f32 sums, and f32; a multiply-add counts twice
  };
  constexpr Cycle kCycles[] = {{8, 0, 2048, 128}, {9, 0, 4096, 256}, {10, 0, 8192, 256}, {10, 3, 8192, 256}};
  const auto attribute = [](cudaDeviceAttr which) {
    int value = 0;
    return cudaDeviceGetAttribute(&value, which, 0) == cudaSuccess ? value : 0;
  };
  for (const Cycle& c : kCycles) {
    if (c.major != attribute(cudaDevAttrComputeCapabilityMajor)) continue;
    if (c.minor != attribute(cudaDevAttrComputeCapabilityMinor)) continue;
    const double cycles = 1e3 * attribute(cudaDevAttrClockRate) * attribute(cudaDevAttrMultiProcessorCount);
    return cycles * (units == Units::kTensor ? c.tensor : units == Units::kF32 ? c.f32 : 0);
  }
  return 0;
}

struct ProductCase {
  const char* name;
  int64_t num_rows, num_groups, outs, cols;  // num_groups 0: a dense product
  WeightFormat format;
  Compute compute;
  DType x_dtype = DType::kF32;
  int64_t most_rows = 0;  // what the launch covers, where it is more: as where it is not known who chooses what
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
  std::vector<BF16> rounded;
  for (const float value : x) rounded.push_back(ToBF16(value));
  const void* const device_x =
      c.x_dtype == DType::kBF16 ? static_cast<const void*>(bench.Upload(rounded)) : bench.Upload(x);
  float* y = bench.Allocate<float>(c.num_rows * c.outs);
  std::vector<int64_t> offsets;
  for (int64_t g = 0; g <= num_weights; ++g) offsets.push_back(c.num_rows * g / num_weights);
  const int64_t* device_offsets = bench.Upload(offsets);
  const WeightView* device_weights = bench.Upload(weights);
  const auto launch = [&] {
    if (c.num_groups == 0) {
      MatMul(bench.stream(), {.x = device_x,
                              .x_dtype = c.x_dtype,
                              .x_stride = c.cols,
                              .num_rows = c.num_rows,
                              .w = weights[0],
                              .y = y,
                              .y_stride = c.outs,
                              .compute = c.compute});
    } else {
      GroupedMatMul(bench.stream(), {.x = device_x,
                                     .x_dtype = c.x_dtype,
                                     .x_stride = c.cols,
                                     .offsets = device_offsets,
                                     .num_groups = c.num_groups,
                                     .max_rows = std::max(c.num_rows, c.most_rows),
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
  const double row_bytes = static_cast<double>(c.num_rows) * (c.cols * DTypeBytes(c.x_dtype) + 4 * c.outs);
  return {c.name, seconds, weight_bytes + row_bytes, 2.0 * c.num_rows * c.outs * c.cols,
          c.compute == Compute::kF32 ? Units::kF32 : Units::kTensor};
}

// DeepSeek-V3's matrices; 8 experts of 16 rows are a decode step of 128 tokens on one of 32 ranks, 16 of 64 one of 16,
// to which as many rows could come as `most_rows` says. Rows travel in bf16.
constexpr WeightFormat kF32Weights = {.dtype = DType::kF32}, kBF16Weights = {.dtype = DType::kBF16};
const WeightFormat kF8Weights = F8BlockWeights::Of(128, 128);
constexpr DType kBF16Rows = DType::kBF16;
const std::vector<ProductCase> kProducts = {
    {"f32 weights, 1 row, 7168 -> 2048", 1, 0, 2048, 7168, kF32Weights, Compute::kF32},
    {"bf16 weights, 1 row, 7168 -> 2048, f32", 1, 0, 2048, 7168, kBF16Weights, Compute::kF32},
    {"bf16 weights, 256 rows, 7168 -> 2048, f32", 256, 0, 2048, 7168, kBF16Weights, Compute::kF32},
    {"bf16, 128 f32 rows, 7168 -> 2048", 128, 0, 2048, 7168, kBF16Weights, Compute::kBF16},
    {"bf16, 128 rows, 7168 -> 2048", 128, 0, 2048, 7168, kBF16Weights, Compute::kBF16, kBF16Rows},
    {"fp8, 8 x 1 rows, 7168 -> 2048", 8, 8, 2048, 7168, kF8Weights, Compute::kBF16, kBF16Rows},
    {"fp8, 8 x 16 rows, 7168 -> 2048", 128, 8, 2048, 7168, kF8Weights, Compute::kBF16, kBF16Rows},
    {"fp8, 8 x 16 f32 rows, 2048 -> 7168", 128, 8, 7168, 2048, kF8Weights, Compute::kBF16},
    {"fp8, 16 x 64 rows, 7168 -> 2048", 1024, 16, 2048, 7168, kF8Weights, Compute::kBF16, kBF16Rows},
    {"fp8, 16 x 64 of 16384 rows, 7168 -> 2048", 1024, 16, 2048, 7168, kF8Weights, Compute::kBF16, kBF16Rows, 16384},
    {"fp8, 8 x 1024 rows, 7168 -> 2048", 8192, 8, 2048, 7168, kF8Weights, Compute::kBF16, kBF16Rows},
    {"bf16, 8 x 16 rows, 7168 -> 2048", 128, 8, 2048, 7168, kBF16Weights, Compute::kBF16, kBF16Rows},
    {"bf16, 8 x 256 rows, 7168 -> 2048", 2048, 8, 2048, 7168, kBF16Weights, Compute::kBF16, kBF16Rows},
    {"bf16, 8 x 1024 rows, 7168 -> 2048", 8192, 8, 2048, 7168, kBF16Weights, Compute::kBF16, kBF16Rows},
    {"bf16, 8 x 1024 f32 rows, 2048 -> 7168", 8192, 8, 7168, 2048, kBF16Weights, Compute::kBF16},
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
  for (const OpTimer time : OpTimers()) add(time(bench));
  for (const ProductCase& c : kProducts) add(TimeProduct(bench, c));
  const double copy_rate = results[0].bytes / results[0].seconds;
  nlohmann::json json = {{"device", bench.device().ToString()},
                         {"tensor_flops_per_second", PeakFlops(Units::kTensor)},
                         {"f32_flops_per_second", PeakFlops(Units::kF32)},
                         {"results", nlohmann::json::array()}};
  absl::PrintF("%-46s %12s %10s %10s %9s\n", bench.device().ToString(), "us", "GB/s", "GFLOP/s", "of_bound");
  for (const Result& r : results) {
    const double peak = PeakFlops(r.units), memory = r.bytes / copy_rate, operations = peak > 0 ? r.flops / peak : 0;
    const char* bound = memory >= operations ? "memory" : r.units == Units::kTensor ? "tensor" : "f32";
    const double of_bound = std::max(memory, operations) / r.seconds;
    absl::PrintF("%-46s %12.2f %10.1f %10.1f %9.3f %s\n", r.name, r.seconds * 1e6, r.bytes / r.seconds * 1e-9,
                 r.flops / r.seconds * 1e-9, of_bound, bound);
    json["results"].push_back({{"name", r.name},
                               {"seconds", r.seconds},
                               {"bytes_per_second", r.bytes / r.seconds},
                               {"flops_per_second", r.flops / r.seconds},
                               {"bound", bound},
                               {"of_bound", of_bound}});
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

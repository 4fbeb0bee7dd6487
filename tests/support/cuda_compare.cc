#include "tests/support/cuda_compare.h"

#include <algorithm>
#include <cmath>

#include "core/device/cpu_device.h"
#include "core/device/cuda_device.h"
#include "tests/support/random_blocks.h"
#include "tests/support/seeds.h"

namespace tokenferry {

OpRun::OpRun(Device& device, uint32_t seed) : device_(device), stream_(*device.CreateStream()), rng_(seed) {}

void* OpRun::Add(const std::string& name, const void* data, size_t num_bytes) {
  auto buffer = device_.Allocate(num_bytes + kGuardBytes, MemoryKind::kDevice, name);
  if (!buffer.ok()) {
    ADD_FAILURE() << buffer.status();
    return nullptr;
  }
  stream_->CopyToDevice(buffer->data(), data, num_bytes);
  stream_->Fill(buffer->as<char>() + num_bytes, 0xEE, kGuardBytes);
  memory_.push_back({name, *std::move(buffer)});
  return memory_.back().buffer.data();
}

absl::StatusOr<std::vector<OpRun::Result>> OpRun::Finish() {
  std::vector<Result> results;
  for (const Memory& memory : memory_) {
    if (memory.name.empty()) continue;
    results.push_back({memory.name, std::vector<uint8_t>(memory.buffer.num_bytes())});
  }
  size_t i = 0;
  for (const Memory& memory : memory_) {
    if (memory.name.empty()) continue;
    stream_->CopyToHost(results[i++].bytes.data(), memory.buffer.data(), memory.buffer.num_bytes());
  }
  TF_RETURN_IF_ERROR(stream_->Synchronize());
  return results;
}

void CudaCompareTest::SetUp() {
  auto device = CreateCudaDevice({});
  if (!device.ok()) GTEST_SKIP() << device.status().message();
  cuda_ = *std::move(device);
  reference_ = CreateCpuDevice({.kernels = KernelSet::kReference});
}

namespace {

absl::StatusOr<std::vector<OpRun::Result>> RunOn(Device& device, uint32_t seed,
                                                 const std::function<void(OpRun&)>& op_case) {
  OpRun run(device, seed);
  op_case(run);
  return run.Finish();
}

void ExpectSameResult(const OpRun::Result& want, const OpRun::Result& got) {
  ASSERT_EQ(got.bytes.size(), want.bytes.size()) << want.name;
  size_t num_different = 0, first = 0;
  for (size_t i = want.bytes.size(); i-- > 0;) {
    if (want.bytes[i] == got.bytes[i]) continue;
    ++num_different;
    first = i;
  }
  const size_t word = first / 4 * 4, size = want.bytes.size() - OpRun::kGuardBytes;
  float floats[2] = {};
  if (word + 4 <= want.bytes.size()) {
    std::memcpy(&floats[0], &want.bytes[word], 4);
    std::memcpy(&floats[1], &got.bytes[word], 4);
  }
  EXPECT_EQ(num_different, 0u) << want.name << ": bytes differ, the first at " << first << " of " << size
                               << (first >= size ? " (behind its end)" : "") << "; as f32, element " << word / 4
                               << " is " << floats[1] << ", want " << floats[0];
}

}  // namespace

void CudaCompareTest::ExpectSameBits(const std::function<void(OpRun&)>& op_case, int num_seeds) {
  num_seeds = NumTestSeeds(num_seeds);
  for (int seed = 0; seed < num_seeds; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    const auto want = RunOn(*reference_, seed, op_case), got = RunOn(*cuda_, seed, op_case);
    ASSERT_TRUE(want.ok()) << want.status();
    ASSERT_TRUE(got.ok()) << got.status();
    for (size_t i = 0; i < want->size(); ++i) ExpectSameResult((*want)[i], (*got)[i]);
    if (HasFailure()) return;
  }
}

// Sums of two numbers from a table: a standard distribution takes a third of some tests' time. The bits that choose are
// SplitMix64's (Steele, Lea and Flood 2014).
std::vector<float> NormalFloats(std::mt19937& rng, size_t size, float scale) {
  constexpr int kTableBits = 12;
  static const std::vector<float> table = [] {
    std::mt19937 seed;
    std::normal_distribution<float> normal(0, std::sqrt(0.5f));
    std::vector<float> numbers(1 << kTableBits);
    for (float& x : numbers) x = normal(seed);
    return numbers;
  }();
  uint64_t state = uint64_t{rng()} << 32 | rng();
  std::vector<float> values(size);
  for (float& x : values) {
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    x = scale * (table[z >> (64 - kTableBits)] + table[z & (table.size() - 1)]);
  }
  return values;
}

template <>
std::vector<float> NormalValues(std::mt19937& rng, size_t size, float scale) {
  return NormalFloats(rng, size, scale);
}
template <>
std::vector<BF16> NormalValues(std::mt19937& rng, size_t size, float scale) {
  const std::vector<float> wide = NormalFloats(rng, size, scale);
  std::vector<BF16> values(size);
  std::transform(wide.begin(), wide.end(), values.begin(), [](float x) { return ToBF16(x); });
  return values;
}

namespace {

// Any bytes are codes and zero points; scales are small.
WeightView RandomCodes(OpRun& run, WeightView w) {
  const WeightBytes bytes = BytesOf(w.format, w.rows, w.cols);
  const auto random_bytes = [&](int64_t size) {
    std::vector<uint8_t> values(size);
    for (uint8_t& v : values) v = static_cast<uint8_t>(run.rng()());
    return values;
  };
  w.data = run.Input(random_bytes(bytes.data));
  if (bytes.zero_points > 0) w.zero_points = run.Input(random_bytes(bytes.zero_points));
  w.scale_stride = (w.cols + w.format.block_cols - 1) / w.format.block_cols;
  const std::vector<float> scales = NormalFloats(run.rng(), w.rows * w.scale_stride, 1.0f / 64);
  std::vector<BF16> bf16;
  std::vector<FP16> f16;
  std::vector<uint8_t> powers;
  for (const float x : scales) {
    bf16.push_back(ToBF16(x));
    f16.push_back(ToFP16(x));
    powers.push_back(static_cast<uint8_t>(119 + run.rng()() % 8));  // of two, below 1
  }
  w.scales = w.format.scale_dtype == DType::kF32    ? run.Input(scales)
             : w.format.scale_dtype == DType::kBF16 ? static_cast<const void*>(run.Input(bf16))
             : w.format.scale_dtype == DType::kF16  ? static_cast<const void*>(run.Input(f16))
                                                    : run.Input(powers);
  return w;
}

}  // namespace

WeightView RandomWeight(OpRun& run, const WeightFormat& format, int64_t rows, int64_t cols) {
  WeightView w{.format = format, .rows = rows, .cols = cols};
  if (PlanarWeights::Matches(format)) return RandomCodes(run, w);
  if (BlockWeights::Matches(format)) {
    w.data = run.Input(RandomBlocks(format.dtype, BytesOf(format, rows, cols).data, run.rng()));
    return w;
  }
  const bool is_f8 = format.dtype == DType::kF8E4M3;
  const std::vector<float> values = NormalFloats(run.rng(), rows * cols, is_f8 ? 64.0f : 0.125f);
  if (format.dtype == DType::kF32) w.data = run.Input(values);
  if (format.dtype == DType::kBF16) {
    std::vector<BF16> narrow;
    for (float x : values) narrow.push_back(ToBF16(x));
    w.data = run.Input(narrow);
  }
  if (format.dtype == DType::kF16) {
    std::vector<FP16> narrow;
    for (float x : values) narrow.push_back(ToFP16(x));
    w.data = run.Input(narrow);
  }
  if (!is_f8) return w;
  std::vector<F8E4M3> codes;
  for (float x : values) codes.push_back(ToF8E4M3(x));
  w.data = run.Input(codes);
  // Bands of blocks begin with the stored matrix's; this one starts some rows into it.
  w.row_offset = run.rng()() % 3;
  w.scale_stride = (cols + format.block_cols - 1) / format.block_cols + run.rng()() % 2;
  const int64_t bands = (w.row_offset + rows + format.block_rows - 1) / format.block_rows;
  w.scales = run.Input(NormalFloats(run.rng(), bands * w.scale_stride, 1.0f / 512));
  return w;
}

std::vector<WeightFormat> BlockFormats() {
  std::vector<WeightFormat> formats;
  for (const DType dtype : BlockTypes()) formats.push_back({.dtype = dtype});
  return formats;
}

const int64_t* RandomLiveRows(OpRun& run, int64_t num_rows) {
  const int64_t live = run.rng()() % (num_rows + 2);
  return live > num_rows ? nullptr : run.Input(std::vector<int64_t>{live});
}

std::vector<int32_t> UniformInts(std::mt19937& rng, size_t size, int32_t begin, int32_t end) {
  std::uniform_int_distribution<int32_t> uniform(begin, end - 1);
  std::vector<int32_t> values(size);
  for (int32_t& x : values) x = uniform(rng);
  return values;
}

}  // namespace tokenferry

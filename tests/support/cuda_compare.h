// Operations on the CUDA device against their references, bit for bit.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/device/device.h"
#include "core/formats/scalar.h"
#include "core/formats/weight_format.h"

namespace tokenferry {

// What a case runs on: a device with one stream, and the memory that the case has asked for.
class OpRun {
 public:
  OpRun(Device& device, uint32_t seed);

  Stream& stream() { return *stream_; }
  std::mt19937& rng() { return rng_; }  // the same numbers on every device

  template <class T>
  T* Input(const std::vector<T>& values) {
    return static_cast<T*>(Add("", values.data(), values.size() * sizeof(T)));
  }
  // Memory whose bytes are compared, with those behind its end, which nobody may write. The first: filled with 0xA5.
  template <class T>
  T* Output(const std::string& name, size_t size) {
    const std::vector<uint8_t> bytes(size * sizeof(T), 0xA5);
    return static_cast<T*>(Add(name, bytes.data(), bytes.size()));
  }
  template <class T>
  T* InOut(const std::string& name, const std::vector<T>& values) {
    return static_cast<T*>(Add(name, values.data(), values.size() * sizeof(T)));
  }

  struct Result {
    std::string name;
    std::vector<uint8_t> bytes;  // with the guard behind the end
  };
  absl::StatusOr<std::vector<Result>> Finish();

  static constexpr size_t kGuardBytes = 64;

 private:
  void* Add(const std::string& name, const void* data, size_t num_bytes);

  struct Memory {
    std::string name;  // empty: an input
    Buffer buffer;
  };
  Device& device_;
  std::unique_ptr<Stream> stream_;
  std::vector<Memory> memory_;
  std::mt19937 rng_;
};

// Tests that need a CUDA device: skipped, saying why, where there is none.
class CudaCompareTest : public testing::Test {
 protected:
  void SetUp() override;

  // Runs `op_case` on the reference kernels and on the CUDA device, `num_seeds` times with different numbers, and
  // expects the same bytes in every output. TF_TEST_SEEDS (seeds.h) makes them fewer.
  void ExpectSameBits(const std::function<void(OpRun&)>& op_case, int num_seeds = 10);

  std::unique_ptr<Device> cuda_, reference_;
};

// Row counts and widths that every row-wise operation is run with: none, one, odd, and beyond a block of threads.
inline const std::vector<int64_t> kRowCounts = {0, 1, 2, 7, 33};
inline const std::vector<int64_t> kWidths = {1, 3, 16, 31, 64, 257, 1030};

std::vector<float> NormalFloats(std::mt19937& rng, size_t size, float scale = 1);
// The same, rounded where T is BF16.
template <class T>
std::vector<T> NormalValues(std::mt19937& rng, size_t size, float scale = 1);  // float, BF16
template <class T>
inline constexpr DType kDTypeOf = std::is_same_v<T, BF16> ? DType::kBF16 : DType::kF32;

// A random weight matrix of `format` (any of WeightFormats), uploaded.
WeightView RandomWeight(OpRun& run, const WeightFormat& format, int64_t rows, int64_t cols);

// Formats that products are run with; the second shape of blocks is odd on purpose.
inline const std::vector<WeightFormat> kWeightFormats = {
    WeightFormat{.dtype = DType::kF32}, WeightFormat{.dtype = DType::kBF16},
    F8BlockWeights::Of(128, 128),       F8BlockWeights::Of(5, 24),
    WeightFormat{.dtype = DType::kF16}, PlanarWeights::Of(DType::kU8, WeightCoding::kZeroPoint, DType::kF16, 24)};
// How many seeds a comparison takes for matrices of `format` [rows, cols]. F16 and codes differ from the others only in
// how one element is read, which every element of a large matrix shows.
inline int NumSeeds(const WeightFormat& format, int64_t rows, int64_t cols) {
  const bool is_large = rows * cols > 2048;
  return is_large && (F16Weights::Matches(format) || PlanarWeights::Matches(format)) ? 1 : 10;
}
// Codes of every kind: bits of an element, codings, types of scales, groups that do not divide a row. Rows take whole
// bytes: widths are multiples of 4.
inline const std::vector<WeightFormat> kCodes = {
    PlanarWeights::Of(DType::kI8, WeightCoding::kNumber, DType::kBF16, 128),
    PlanarWeights::Of(DType::kU8, WeightCoding::kZeroPoint, DType::kF16, 20),
    PlanarWeights::Of(DType::kU4, WeightCoding::kZeroPoint, DType::kF32, 16),
    PlanarWeights::Of(DType::kU4, WeightCoding::kInt4, DType::kBF16, 7),
    PlanarWeights::Of(DType::kU4, WeightCoding::kE2M1, DType::kUE8M0, 32),
    PlanarWeights::Of(DType::kU4, WeightCoding::kIq4Nl, DType::kF32, 8),
    PlanarWeights::Of(DType::kU2, WeightCoding::kZeroPoint, DType::kF32, 12)};

// Blocks of GGUF files of every type; rows are whole blocks.
std::vector<WeightFormat> BlockFormats();

// The live_rows (core/kernels/live_rows.h) of an operation on num_rows: some, all, none, or null.
const int64_t* RandomLiveRows(OpRun& run, int64_t num_rows);

std::vector<int32_t> UniformInts(std::mt19937& rng, size_t size, int32_t begin, int32_t end);  // [begin, end)

}  // namespace tokenferry

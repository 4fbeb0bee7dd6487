// What loading does with bytes, against its definition.
#include "runtime/model/transpose.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "runtime/model/stored_tensor.h"

namespace tokenferry::testing {
namespace {

std::vector<uint8_t> RandomBytes(std::minstd_rand& random, int64_t count) {
  std::vector<uint8_t> bytes(static_cast<size_t>(count));
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random() >> 8);
  return bytes;
}

TEST(TransposeColumns, MovesEveryElementAndNothingElse) {
  std::minstd_rand random(7);
  for (const int64_t bytes : {1, 2, 4}) {
    for (const int64_t rows : {0, 1, 3, 16, 33, 64, 130}) {
      for (const int64_t cols : {0, 1, 5, 16, 64, 71}) {
        for (const int64_t step : {1, 2, 3}) {
          const int64_t src_stride = (cols * step + 1) * bytes, dst_stride = (rows + 2) * bytes;
          const std::vector<uint8_t> src = RandomBytes(random, rows * src_stride);
          std::vector<uint8_t> dst(static_cast<size_t>(cols * dst_stride), 0xEE), want = dst;
          for (int64_t c = 0; c < cols; ++c) {
            for (int64_t r = 0; r < rows; ++r) {
              std::memcpy(&want[static_cast<size_t>(c * dst_stride + r * bytes)],
                          &src[static_cast<size_t>(r * src_stride + c * step * bytes)], static_cast<size_t>(bytes));
            }
          }
          TransposeColumns({.element_bytes = bytes,
                            .src = src.data(),
                            .src_stride = src_stride,
                            .num_rows = rows,
                            .num_cols = cols,
                            .step = step,
                            .dst = dst.data(),
                            .dst_stride = dst_stride});
          EXPECT_EQ(dst, want) << bytes << " bytes, " << rows << " x " << cols << ", step " << step;
        }
      }
    }
  }
}

// Where AWQ has the code of output o of eight: at bits 4 * place of the word.
constexpr int kAwqPlace[8] = {0, 4, 1, 5, 2, 6, 3, 7};

TEST(Repack, AwqWords) {
  std::minstd_rand random(8);
  for (const int64_t cols : {1, 3, 8}) {
    const int64_t rows = 6;
    const std::vector<uint8_t> src = RandomBytes(random, rows * cols * 4);
    const auto code = [&](int64_t row, int64_t o) {
      uint32_t word;
      std::memcpy(&word, &src[static_cast<size_t>((row * cols + o / 8) * 4)], sizeof(word));
      return word >> (4 * kAwqPlace[o % 8]) & 0xF;
    };
    std::vector<uint8_t> codes(src.size()), zeros(2 * src.size());
    RepackBytes({Repack::Kind::kAwqCodes, 4}, DType::kI32, cols, src, codes.data());
    RepackBytes({Repack::Kind::kAwqZeroPoints, 4}, DType::kI32, cols, src, zeros.data());
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t o = 0; o < 8 * cols; ++o) {
        EXPECT_EQ(zeros[static_cast<size_t>(row * 8 * cols + o)], code(row, o));
        if (row % 2 == 1) continue;
        EXPECT_EQ(codes[static_cast<size_t>(row / 2 * 8 * cols + o)], code(row, o) | code(row + 1, o) << 4);
      }
    }
  }
}

}  // namespace
}  // namespace tokenferry::testing

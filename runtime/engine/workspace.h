// Cuts a workspace into matrices. Internal to the engine.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "core/formats/tensor.h"

namespace tokenferry {

class Workspace {
 public:
  explicit Workspace(float* data) : next_(data) {}

  MatrixView<float> Take(int64_t rows, int64_t cols) {
    const auto matrix = MakeMatrix<float>(next_, rows, cols);
    next_ += Floats(rows, cols);
    return matrix;
  }
  // What Take uses up: so that every matrix begins where a GPU's vector loads may.
  static int64_t Floats(int64_t rows, int64_t cols) { return (rows * cols + kAlignment - 1) / kAlignment * kAlignment; }
  static int64_t Floats(int64_t rows, std::initializer_list<int64_t> cols) {
    int64_t sum = 0;
    for (const int64_t c : cols) sum += Floats(rows, c);
    return sum;
  }

 private:
  static constexpr int64_t kAlignment = 64;
  float* next_;
};

}  // namespace tokenferry

// Non-owning views of device memory. Trivially copyable, so that they can travel in operation arguments.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/scalar.h"

namespace tokenferry {

// [rows, cols] row-major; row i starts at data + i * stride (elements). Owns nothing.
template <class T>
struct MatrixView {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  TF_HOST_DEVICE T* row(int64_t i) const { return data + i * stride; }
  operator MatrixView<const T>() const { return {data, rows, cols, stride}; }
};

template <class T>
MatrixView<T> MakeMatrix(void* data, int64_t rows, int64_t cols) {
  return {static_cast<T*>(data), rows, cols, cols};
}

// Contiguous [size].
template <class T>
struct VectorView {
  T* data = nullptr;
  int64_t size = 0;

  TF_HOST_DEVICE T& operator[](int64_t i) const { return data[i]; }
  operator VectorView<const T>() const { return {data, size}; }
};

// A weight matrix [rows = outputs, cols = inputs], row-major, in the precision the checkpoint stores.
// kF32, kBF16: scales is null. kF8E4M3: value(o, i) = q(o, i) * scales[(row_offset + o) / block][i / block], with
// `scales` f32 row-major, scale_stride per block row; row_offset is where this view starts inside the stored matrix
// (so that a row slice of a blocked matrix is again a view). Edge blocks may be partial. Owns nothing.
struct WeightView {
  DType dtype = DType::kF32;
  const void* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  const float* scales = nullptr;
  int64_t scale_stride = 0;
  int64_t row_offset = 0;
  int32_t block = 128;

  WeightView Rows(int64_t begin, int64_t count) const {
    WeightView v = *this;
    v.data = static_cast<const uint8_t*>(data) + begin * cols * DTypeBytes(dtype);
    v.rows = count;
    v.row_offset = row_offset + begin;
    return v;
  }
};

}  // namespace tokenferry

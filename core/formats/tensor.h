// Non-owning views of device memory. Trivially copyable, so that they can travel in operation arguments.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/formats/dtype.h"
#include "core/formats/scalar.h"

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

// A MatrixView whose elements are kF32 or kBF16, known at run time only.
template <class Void>
struct FloatMatrixView {
  Void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;  // elements

  FloatMatrixView() = default;
  FloatMatrixView(Void* matrix, DType element, int64_t num_rows, int64_t num_cols)  // contiguous
      : data(matrix), dtype(element), rows(num_rows), cols(num_cols), stride(num_cols) {}
  template <class T>
  FloatMatrixView(MatrixView<T> m)
      : data(m.data),
        dtype(std::is_same_v<std::remove_const_t<T>, BF16> ? DType::kBF16 : DType::kF32),
        rows(m.rows),
        cols(m.cols),
        stride(m.stride) {
    static_assert(std::is_same_v<std::remove_const_t<T>, BF16> || std::is_same_v<std::remove_const_t<T>, float>);
  }

  TF_HOST_DEVICE int64_t element_bytes() const { return dtype == DType::kBF16 ? 2 : 4; }
  TF_HOST_DEVICE Void* row(int64_t i) const {
    using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
    return static_cast<Byte*>(data) + i * stride * element_bytes();
  }
  // T is that of `dtype`.
  template <class T>
  MatrixView<T> as() const {
    return {static_cast<T*>(data), rows, cols, stride};
  }
  operator FloatMatrixView<const void>() const requires(!std::is_const_v<Void>) {
    FloatMatrixView<const void> m(data, dtype, rows, cols);
    m.stride = stride;
    return m;
  }
};
using FloatMatrix = FloatMatrixView<void>;
using ConstFloatMatrix = FloatMatrixView<const void>;

// Contiguous [size].
template <class T>
struct VectorView {
  T* data = nullptr;
  int64_t size = 0;

  TF_HOST_DEVICE T& operator[](int64_t i) const { return data[i]; }
  operator VectorView<const T>() const { return {data, size}; }
};

}  // namespace tokenferry

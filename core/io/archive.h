// Structs as byte strings for another process of the same program: one list of fields serves both directions.
//
//   template <class Archive>
//   static void Fields(Archive& a, Point& p) { a(p.x), a(p.y), a(p.tags); }   // in Point's namespace
//
//   ArchiveWriter writer;  Fields(writer, point);  std::string bytes = writer.Take();
//   ArchiveReader reader(bytes);  Fields(reader, point);  if (!reader.complete()) ..
//
// Numbers and enumerations travel as they lie in memory, so both ends must have the same byte order; strings and
// vectors with their sizes in front; a struct field by field, since its padding would travel as whatever it happens to
// be. Write a bool as a uint8_t or an enumeration: a byte that is neither 0 nor 1 must not become one.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace tokenferry {

template <class T>
inline constexpr bool kIsArchiveScalar = (std::is_arithmetic_v<T> || std::is_enum_v<T>)&&!std::is_same_v<T, bool>;

class ArchiveWriter {
 public:
  template <class T>
  void operator()(const T& value) {
    if constexpr (kIsArchiveScalar<T>) {
      bytes_.append(reinterpret_cast<const char*>(&value), sizeof(T));
    } else {
      static_assert(!std::is_same_v<T, bool>, "write a uint8_t or an enumeration");
      Fields(*this, const_cast<T&>(value));
    }
  }
  void operator()(const std::string& value) {
    (*this)(static_cast<int64_t>(value.size()));
    bytes_.append(value);
  }
  template <class T>
  void operator()(const std::vector<T>& values) {
    (*this)(static_cast<int64_t>(values.size()));
    if constexpr (kIsArchiveScalar<T>) {
      bytes_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
    } else {
      for (const T& value : values) (*this)(value);
    }
  }

  std::string Take() { return std::exchange(bytes_, {}); }

 private:
  std::string bytes_;
};

// Never reads beyond the bytes and never allocates more elements than bytes are left. After the first value that does
// not fit, what is read is arbitrary and complete() stays false.
class ArchiveReader {
 public:
  explicit ArchiveReader(absl::string_view bytes) : rest_(bytes) {}

  template <class T>
  void operator()(T& value) {
    if constexpr (kIsArchiveScalar<T>) {
      if (!Has(sizeof(T))) return;
      std::memcpy(&value, rest_.data(), sizeof(T));
      rest_.remove_prefix(sizeof(T));
    } else {
      static_assert(!std::is_same_v<T, bool>, "read a uint8_t or an enumeration");
      Fields(*this, value);
    }
  }
  void operator()(std::string& value) {
    const size_t size = Size(1);
    value.assign(rest_.data(), size);
    rest_.remove_prefix(size);
  }
  template <class T>
  void operator()(std::vector<T>& values) {
    values.clear();
    if constexpr (kIsArchiveScalar<T>) {
      const size_t size = Size(sizeof(T));
      values.resize(size);
      if (size > 0) std::memcpy(values.data(), rest_.data(), size * sizeof(T));
      rest_.remove_prefix(size * sizeof(T));
    } else {
      const size_t size = Size(1);  // every element takes at least one byte
      for (size_t i = 0; ok_ && i < size; ++i) (*this)(values.emplace_back());
    }
  }

  bool complete() const { return ok_ && rest_.empty(); }

 private:
  bool Has(size_t num_bytes) {
    if (rest_.size() < num_bytes) ok_ = false;
    return ok_;
  }
  // The number of elements of `bytes_each` bytes that are said to follow; 0 when they do not.
  size_t Size(size_t bytes_each) {
    int64_t size = 0;
    (*this)(size);
    if (ok_ && (size < 0 || static_cast<uint64_t>(size) > rest_.size() / bytes_each)) ok_ = false;
    return ok_ ? static_cast<size_t>(size) : 0;
  }

  absl::string_view rest_;
  bool ok_ = true;
};

}  // namespace tokenferry

// Vectors of 16 bytes for what moves bytes about while files are loaded. Compilers make them of what every machine of
// an architecture has: nothing here is worth a kernel for each instruction set.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace tokenferry {

inline constexpr int64_t kVectorBytes = 16;

template <class Element>
using Vector __attribute__((vector_size(kVectorBytes))) = Element;

namespace internal {

template <class Element, size_t kFirst, size_t... kIdx>
Vector<Element> Interleave(Vector<Element> a, Vector<Element> b, std::index_sequence<kIdx...>) {
  return __builtin_shufflevector(a, b, (kFirst + kIdx / 2 + kIdx % 2 * sizeof...(kIdx))...);
}

}  // namespace internal

// a[0], b[0], a[1], b[1], ..
template <class Element>
Vector<Element> InterleaveLower(Vector<Element> a, Vector<Element> b) {
  return internal::Interleave<Element, 0>(a, b, std::make_index_sequence<kVectorBytes / sizeof(Element)>());
}

// The same, of their second halves.
template <class Element>
Vector<Element> InterleaveUpper(Vector<Element> a, Vector<Element> b) {
  constexpr size_t kCount = kVectorBytes / sizeof(Element);
  return internal::Interleave<Element, kCount / 2>(a, b, std::make_index_sequence<kCount>());
}

}  // namespace tokenferry

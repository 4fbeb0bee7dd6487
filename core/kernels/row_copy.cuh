// Copying bytes by the threads of a block.
#pragma once

#include <cstdint>

namespace tokenferry {

// dst[0 .. num_bytes) = src[..], by all threads of the block: in words of 16 bytes where source and destination lie
// alike, of 4 or 1 where they do not. No synchronisation.
__device__ inline void CopyBytesByBlock(char* dst, const char* src, int64_t num_bytes) {
  const auto copy = [&](auto* to, const auto* from, int64_t count) {
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) to[i] = from[i];
  };
  const auto offset = [](const char* p) { return reinterpret_cast<uintptr_t>(p); };
  const uintptr_t apart = offset(dst) ^ offset(src);
  const int64_t word = apart % 16 == 0 ? 16 : apart % 4 == 0 ? 4 : 1;
  const int64_t to_word = static_cast<int64_t>(-offset(dst) & (word - 1));
  const int64_t head = num_bytes < to_word ? num_bytes : to_word;
  const int64_t words = (num_bytes - head) / word, body = words * word;
  copy(dst, src, head);
  if (word == 16) {
    copy(reinterpret_cast<uint4*>(dst + head), reinterpret_cast<const uint4*>(src + head), words);
  } else if (word == 4) {
    copy(reinterpret_cast<uint32_t*>(dst + head), reinterpret_cast<const uint32_t*>(src + head), words);
  } else {
    copy(dst + head, src + head, words);
  }
  copy(dst + head + body, src + head + body, num_bytes - head - body);
}

}  // namespace tokenferry

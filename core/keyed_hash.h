// Random numbers that depend on a key alone, so that they are the same on every machine and for every number of ranks.
#pragma once

#include <cstdint>

namespace tokenferry {

// SplitMix64's finaliser (Steele, Lea, Flood 2014).
inline uint64_t MixBits(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

inline uint64_t HashKey(uint64_t seed, uint64_t stream, uint64_t index) {
  return MixBits(MixBits(MixBits(seed + 0x9E3779B97F4A7C15u) ^ stream) + 0x9E3779B97F4A7C15u * (index + 1));
}

class KeyedRandom {
 public:
  explicit KeyedRandom(uint64_t key) : state_(key) {}
  uint64_t Next() { return MixBits(state_ += 0x9E3779B97F4A7C15u); }
  // (0, 1), 53 bits.
  double Uniform() { return (static_cast<double>(Next() >> 11) + 0.5) * 0x1p-53; }
  // [0, n), n < 2^32.
  uint32_t Below(uint32_t n) { return static_cast<uint32_t>(((Next() >> 32) * n) >> 32); }

 private:
  uint64_t state_;
};

}  // namespace tokenferry

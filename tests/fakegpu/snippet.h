// A few PTX instructions as a kernel, for tests of the interpreter.
#pragma once

#include <bit>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/fakegpu/ptx/memory.h"

namespace tokenferry::fakegpu {

struct SnippetInput {
  uint64_t a, b, c;
};

// The low 32 bits of a register, as PTX's types have them.
inline uint32_t U32(uint64_t x) { return static_cast<uint32_t>(x); }
inline int32_t S32(uint64_t x) { return static_cast<int32_t>(x); }
inline float F(uint64_t x) { return std::bit_cast<float>(U32(x)); }

// Plain memory of the host, seen at its own addresses.
class HostMemory : public GlobalMemory {
 public:
  void Add(void* data, size_t num_bytes);
  MemoryRange Find(uint64_t address) override;
  std::string Describe(uint64_t address) override;

 private:
  std::map<uint64_t, uint64_t> ranges_;  // begin -> end
};

// One thread per input, 64 in a block. `code` finds a, b, c in %rd1..3, and their low parts in %r1..3, %rs1..3, %f1..3,
// %fd1..3; %p7 is whether a, as an s32, is negative; 256 bytes of shared memory are named shared. It leaves its result
// in the register that its text names with number 0. Returns the results.
std::vector<uint64_t> RunSnippet(const std::string& code, std::vector<SnippetInput> inputs, uint32_t seed);

}  // namespace tokenferry::fakegpu

// A PTX module, read and decoded: what nvcc emitted, ready to be executed (warp.h).
// Source: PTX ISA 9.0. Anything that is not understood is an UnsupportedPtx that names it, never skipped.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace tokenferry::fakegpu {

enum class Type : uint8_t {
  kB8,
  kB16,
  kB32,
  kB64,
  kU8,
  kU16,
  kU32,
  kU64,
  kS8,
  kS16,
  kS32,
  kS64,
  kF16,
  kBF16,
  kF16x2,
  kBF16x2,
  kE4M3x2,
  kF32,
  kF64,
  kPred,
  kNone
};
Type TypeNamed(absl::string_view name);  // kNone for what names no type
int SizeOf(Type type);                   // bytes

class UnsupportedPtx : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Warp;
struct Instruction;
// Executes `instruction` for the lanes in `mask`, which is not empty.
using Handler = void (*)(Warp& warp, const Instruction& instruction, uint32_t mask);

enum class Flow : uint8_t {
  kNext,
  kBranch,  // to `target`
  kExit,
  kBlockBarrier,  // bar.sync 0
  kWarpSync,      // waits until all lanes of the member mask, sources[member_mask], are here
};

enum class Space : uint8_t { kGeneric, kGlobal, kShared, kLocal, kParam };

// Registers are numbered within the kernel; a negative number -1 - i is the constant i.
struct Instruction {
  Handler run = nullptr;
  Flow flow = Flow::kNext;
  bool guard_negated = false;
  uint8_t num_dsts = 0, num_sources = 0;
  uint8_t bytes = 0;        // of one element of a memory access, or of a copy
  uint8_t dst_bytes = 8;    // of a destination register: what a load is extended to
  uint8_t member_mask = 0;  // kWarpSync: which source
  Space space = Space::kGeneric;
  bool is_signed = false;  // a load extends the sign
  bool in_order = false;   // a handler's own choice between two forms
  int16_t guard = -1;
  int32_t dsts[4] = {-1, -1, -1, -1};  // -1: not wanted
  int32_t sources[11] = {};
  int32_t target = 0;  // instruction index of a branch
  int64_t offset = 0;  // of an address
  int line = 0;        // in the PTX text, from 1
};

struct Statement {
  int line = 0;
  std::string guard;  // register, "" for none
  bool guard_negated = false;
  std::string opcode;
  std::vector<std::string> operands;  // as written; registers are replaced by "%<number>"
};

struct Kernel {
  std::string name;
  std::vector<int> param_offsets, param_sizes;
  int param_bytes = 0;
  int shared_bytes = 0;  // static; dynamic shared memory begins behind it
  int local_bytes = 0;   // per thread
  std::vector<uint8_t> register_bytes;
  std::vector<Statement> statements;
  std::map<std::string, int> labels;         // to the statement behind
  std::map<std::string, int64_t> addresses;  // of shared, local and parameter names
  // Filled by Decode.
  std::vector<Instruction> code;
  std::vector<uint64_t> constants;
  std::map<std::string, int> special_registers;  // name -> register
  bool decoded = false;
};

struct Module {
  std::string target;  // "sm_90a"
  std::map<std::string, Kernel, std::less<>> kernels;
};

// Throws UnsupportedPtx.
Module ParsePtx(absl::string_view text);
// Turns statements into instructions, once. Throws UnsupportedPtx with the line and the instruction.
void Decode(Kernel& kernel);

std::string ToString(const Statement& statement);

// Shared memory begins here in its own address space, so that address 0 is none.
inline constexpr int kSharedBase = 1024;

}  // namespace tokenferry::fakegpu

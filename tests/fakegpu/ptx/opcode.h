// One statement while it is decoded: the parts of its opcode, each of which somebody has to understand, and its
// operands.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "tests/fakegpu/ptx/program.h"

namespace tokenferry::fakegpu {

class Opcode {
 public:
  Opcode(Kernel& kernel, const Statement& statement);

  const std::string& name() const { return name_; }  // "setp"
  bool Take(absl::string_view part);                 // true, and the part is understood, if it is there
  bool TakeFirst(absl::string_view part);            // only if it is the next one
  std::string TakeNext();                            // the next part, whatever it is
  Type TakeType();                                   // the next part, which has to be a type
  bool empty() const { return parts_.empty(); }
  [[noreturn]] void Refuse(absl::string_view why) const;

  int num_operands() const { return static_cast<int>(statement_.operands.size()); }
  const std::string& operand(int i) const;
  // Operands as registers or constants; a braced list is several.
  void Dst(Instruction& in, int operand);
  void Source(Instruction& in, int operand);
  void Address(Instruction& in, int operand);  // "[%1+16]": appends a source, sets the offset
  // One destination, then `num_sources` sources.
  void DstAndSources(Instruction& in, int num_sources);
  // .aligned: all lanes of the warp have to be here.
  void WholeWarp(Instruction& in);
  int RegisterBytes(int index) const { return index < 0 ? 8 : kernel_.register_bytes[index]; }

 private:
  int SourceIndex(absl::string_view text);
  int Constant(uint64_t value);
  static std::vector<std::string> Listed(const std::string& operand);

  Kernel& kernel_;
  const Statement& statement_;
  std::string name_;
  std::vector<std::string> parts_;
};

// Each decodes the opcodes of its kind: false for those that it does not have.
bool DecodeInteger(Opcode& op, Instruction& in);
bool DecodeFloat(Opcode& op, Instruction& in);
bool DecodeConvert(Opcode& op, Instruction& in);
bool DecodeMove(Opcode& op, Instruction& in);  // moves, selections, comparisons
bool DecodeMemory(Opcode& op, Instruction& in);
bool DecodeAsync(Opcode& op, Instruction& in);   // cp.async, ldmatrix
bool DecodeWarp(Opcode& op, Instruction& in);    // shuffles, votes, barriers
bool DecodeMatrix(Opcode& op, Instruction& in);  // mma

}  // namespace tokenferry::fakegpu

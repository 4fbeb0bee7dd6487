#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/fakegpu/ptx/memory.h"
#include "tests/fakegpu/ptx/opcode.h"
#include "tests/fakegpu/ptx/special_registers.h"

namespace tokenferry::fakegpu {

Opcode::Opcode(Kernel& kernel, const Statement& statement) : kernel_(kernel), statement_(statement) {
  parts_ = absl::StrSplit(statement.opcode, '.');
  name_ = parts_[0];
  parts_.erase(parts_.begin());
  // "::cta" and the like name a default of shared memory.
  for (std::string& part : parts_) {
    if (part == "shared::cta") part = "shared";
  }
}

bool Opcode::Take(absl::string_view part) {
  const auto found = std::find(parts_.begin(), parts_.end(), part);
  if (found == parts_.end()) return false;
  parts_.erase(found);
  return true;
}

bool Opcode::TakeFirst(absl::string_view part) { return !parts_.empty() && parts_[0] == part && Take(part); }

std::string Opcode::TakeNext() {
  if (parts_.empty()) Refuse("the opcode is not complete");
  std::string part = parts_[0];
  parts_.erase(parts_.begin());
  return part;
}

Type Opcode::TakeType() {
  const Type type = TypeNamed(TakeNext());
  if (type == Type::kNone) Refuse("a type was expected");
  return type;
}

void Opcode::Refuse(absl::string_view why) const {
  throw UnsupportedPtx(absl::StrCat("kernel ", kernel_.name, ", PTX line ", statement_.line,
                                    ": not supported: ", ToString(statement_), " (", why, ")"));
}

const std::string& Opcode::operand(int i) const {
  if (i >= num_operands()) Refuse("an operand is missing");
  return statement_.operands[i];
}

std::vector<std::string> Opcode::Listed(const std::string& operand) {
  if (operand[0] != '{') return {operand};
  return absl::StrSplit(operand.substr(1, operand.size() - 2), ',');
}

void Opcode::Dst(Instruction& in, int i) {
  for (const std::string& text : Listed(operand(i))) {
    if (in.num_dsts == std::size(in.dsts)) Refuse("too many destinations");
    int index = -1;
    if (text != "_" && (text[0] != '%' || !absl::SimpleAtoi(text.substr(1), &index))) Refuse("destination");
    in.dsts[in.num_dsts++] = index;
  }
}

int Opcode::Constant(uint64_t value) {
  const auto found = std::find(kernel_.constants.begin(), kernel_.constants.end(), value);
  if (found == kernel_.constants.end()) kernel_.constants.push_back(value);
  return -1 - static_cast<int>(std::find(kernel_.constants.begin(), kernel_.constants.end(), value) -
                               kernel_.constants.begin());
}

int Opcode::SourceIndex(absl::string_view text) {
  int index = 0;
  if (text[0] == '%' && absl::SimpleAtoi(text.substr(1), &index)) return index;
  if (IsSpecialRegister(text)) {
    const auto [found, added] =
        kernel_.special_registers.try_emplace(std::string(text), static_cast<int>(kernel_.register_bytes.size()));
    if (added) kernel_.register_bytes.push_back(4);
    return found->second;
  }
  uint64_t bits = 0;
  if (absl::StartsWith(text, "0f") || absl::StartsWith(text, "0F") || absl::StartsWith(text, "0d") ||
      absl::StartsWith(text, "0D")) {
    if (absl::SimpleHexAtoi(text.substr(2), &bits)) return Constant(bits);
  } else if (absl::StartsWith(text, "0x") || absl::StartsWith(text, "0X")) {
    if (absl::SimpleHexAtoi(absl::StripSuffix(text, "U"), &bits)) return Constant(bits);
  } else if (int64_t value = 0; absl::SimpleAtoi(text, &value)) {
    return Constant(static_cast<uint64_t>(value));
  } else if (absl::SimpleAtoi(absl::StripSuffix(text, "U"), &bits)) {
    return Constant(bits);
  } else if (const auto found = kernel_.addresses.find(std::string(text)); found != kernel_.addresses.end()) {
    return Constant(static_cast<uint64_t>(found->second));
  }
  Refuse(absl::StrCat("operand ", text));
}

void Opcode::Source(Instruction& in, int i) {
  for (const std::string& text : Listed(operand(i))) {
    if (in.num_sources == std::size(in.sources)) Refuse("too many sources");
    in.sources[in.num_sources++] = SourceIndex(text);
  }
}

void Opcode::Address(Instruction& in, int i) {
  const std::string& text = operand(i);
  if (text.front() != '[' || text.back() != ']') Refuse("an address was expected");
  const std::pair<std::string, std::string> parts =
      absl::StrSplit(text.substr(1, text.size() - 2), absl::MaxSplits('+', 1));
  if (!parts.second.empty() && !absl::SimpleAtoi(parts.second, &in.offset)) Refuse("offset of an address");
  in.sources[in.num_sources++] = SourceIndex(parts.first);
}

void Opcode::DstAndSources(Instruction& in, int num_sources) {
  if (num_operands() != num_sources + 1) Refuse("number of operands");
  Dst(in, 0);
  for (int i = 1; i <= num_sources; ++i) Source(in, i);
}

void Opcode::WholeWarp(Instruction& in) {
  in.flow = Flow::kWarpSync;
  in.member_mask = in.num_sources;
  in.sources[in.num_sources++] = Constant(0xFFFFFFFF);
}

namespace {

bool DecodeFlow(const Kernel& kernel, Opcode& op, Instruction& in) {
  if (op.name() == "bra") {
    op.Take("uni");
    const auto label = kernel.labels.find(op.operand(0));
    if (label == kernel.labels.end()) op.Refuse("no such label");
    in.flow = Flow::kBranch;
    in.target = label->second;
    return true;
  }
  if (op.name() == "ret" || op.name() == "exit") {
    in.flow = Flow::kExit;
    return true;
  }
  if (op.name() == "trap") {
    in.run = [](Warp&, const Instruction&, uint32_t) { throw AccessError("trap"); };
    return true;
  }
  return false;
}

}  // namespace

void Decode(Kernel& kernel) {
  if (kernel.decoded) return;
  std::vector<Instruction> code;
  for (const Statement& statement : kernel.statements) {
    Opcode op(kernel, statement);
    Instruction& in = code.emplace_back();
    in.line = statement.line;
    in.guard_negated = statement.guard_negated;
    int guard = -1;
    if (!statement.guard.empty() && !absl::SimpleAtoi(statement.guard.substr(1), &guard)) op.Refuse("guard");
    in.guard = static_cast<int16_t>(guard);
    const bool known = DecodeFlow(kernel, op, in) || DecodeMove(op, in) || DecodeInteger(op, in) ||
                       DecodeFloat(op, in) || DecodeConvert(op, in) || DecodeMemory(op, in) || DecodeAsync(op, in) ||
                       DecodeWarp(op, in) || DecodeMatrix(op, in);
    if (!known) op.Refuse("unknown opcode");
    if (!op.empty()) op.Refuse(absl::StrCat("what is .", op.TakeNext(), "?"));
    const bool needs_handler = in.flow == Flow::kNext || in.flow == Flow::kWarpSync;
    if (needs_handler && in.run == nullptr) op.Refuse("not for this type");
  }
  // Whoever runs over the end ends.
  code.emplace_back().flow = Flow::kExit;
  kernel.code = std::move(code);
  kernel.decoded = true;
}

}  // namespace tokenferry::fakegpu

// The text of an answer, taken apart as it comes: what the model thinks, what it says, which tools it calls.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "runtime/serve/tools/tool_format.h"
#include "runtime/serve/tools/word_scanner.h"

namespace tokenferry {

// Where an answer has reasoning, between <think> and </think>.
enum class Thinking : uint8_t {
  kNever,
  kMayBegin,  // if the answer begins with <think>
  kHasBegun,  // the prompt ends with <think>
};

enum class CallCount : uint8_t { kOne, kAny };

struct OutputRules {
  const ToolFormat* tools = nullptr;  // null: calls are not looked for
  Thinking thinking = Thinking::kNever;
  CallCount calls = CallCount::kAny;

  // The signs of both. Where they are special tokens their text has to be shown to the parser.
  std::vector<std::string> Signs() const;
};

enum class PieceKind : uint8_t {
  kText,
  kReasoning,
  kCall,       // a call begins; the piece's text is the tool's name
  kArguments,  // of the call, a part of a JSON object as the model has written it
};

struct OutputPiece {
  PieceKind kind = PieceKind::kText;
  int64_t call_idx = -1;  // kCall, kArguments: from 0
  std::string text;
};

// Appends to the last piece where that is of the same kind.
void AppendPiece(PieceKind kind, int64_t call_idx, absl::string_view text, std::vector<OutputPiece>& pieces);

// What comes out does not depend on how the text was cut. A call is one from its name and the brace after it on: from
// there everything up to the closing brace is its arguments, whether or not the text between is JSON. (Where the format
// is a JSON object whose members stand in another order, once it has come whole.) What only looked like the beginning
// of a call is text, every byte of it. White space around reasoning and around calls belongs to neither. Holds back at
// most 64 KiB, besides white space.
class OutputParser {
 public:
  explicit OutputParser(const OutputRules& rules);

  void Push(absl::string_view text, std::vector<OutputPiece>& pieces);
  // No more text will come.
  void Finish(std::vector<OutputPiece>& pieces);

  int64_t num_calls() const { return num_calls_; }
  // CallCount::kOne: the call is complete, and what follows is ignored.
  bool ended() const { return state_ == State::kEnded; }

 private:
  enum class State : uint8_t {
    kStart,
    kReasoningStart,
    kReasoning,
    kTextStart,
    kText,
    kSection,
    kHead,
    kBody,
    kArguments,
    kTail,
    kAfterCall,
    kEnded
  };
  using Pieces = std::vector<OutputPiece>;

  // Each takes what can be decided of held_; false: more text is needed.
  bool Step(Pieces& pieces);
  bool TakeStart();
  bool TakeSpace(State next);
  bool TakeReasoning(Pieces& pieces);
  bool TakeText(Pieces& pieces);
  bool TakeSection(Pieces& pieces);
  bool TakeHead(Pieces& pieces);
  bool TakeBody(Pieces& pieces);
  bool TakeArguments(Pieces& pieces);
  bool TakeTail();
  bool TakeAfterCall();

  void BeginCall(absl::string_view name, Pieces& pieces);
  bool TakeWholeBody(absl::string_view body, Pieces& pieces);
  bool NoCall(Pieces& pieces);
  absl::string_view Words() const;
  bool Awaits(const WordScanner& scanner) const;
  void EndCall() { state_ = rules_.calls == CallCount::kOne ? State::kEnded : State::kAfterCall; }
  void Emit(PieceKind kind, size_t num_bytes, Pieces& pieces);
  void Drop(size_t num_bytes);
  // Bytes of white space in held_ before `end`, which lies behind those that are known.
  size_t SpaceBefore(size_t end) const;

  const OutputRules rules_;
  State state_;
  std::string held_;       // not decided yet
  size_t num_spaces_ = 0;  // white space that held_ is known to begin with: a run may be long, and is read once
  std::string opening_;    // what has begun the call that held_ goes on with
  int64_t num_calls_ = 0;
  int depth_ = 0;  // in kArguments
  bool in_string_ = false, escaped_ = false;
};

}  // namespace tokenferry

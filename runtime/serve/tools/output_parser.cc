#include "runtime/serve/tools/output_parser.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/io/json.h"
#include "runtime/serve/tools/word_scanner.h"

namespace tokenferry {
namespace {

using Json = nlohmann::ordered_json;
using Outcome = WordScanner::Outcome;

constexpr absl::string_view kThink = "<think>", kEndOfThought = "</think>";
// Of what is looked at to find a name, a tail or a body: always the same bytes, however the text was cut.
constexpr size_t kMaxNameBytes = 128, kMaxWordsBytes = 512, kMaxBodyBytes = 64 << 10;
// A name ends before one of these.
constexpr absl::string_view kNoNameBytes = " \t\r\n\"'`<>{}\\";

}  // namespace

std::vector<std::string> OutputRules::Signs() const {
  std::vector<std::string> signs;
  if (thinking != Thinking::kNever) signs = {std::string(kThink), std::string(kEndOfThought)};
  if (tools == nullptr) return signs;
  for (const absl::string_view sign : {tools->calls_begin, tools->calls_end, tools->call_begin, tools->call_end}) {
    if (!sign.empty()) signs.emplace_back(sign);
  }
  for (const auto& words : {tools->before_name, tools->before_arguments}) {
    for (const absl::string_view word : words) {
      if (word[0] == '<') signs.emplace_back(word);
    }
  }
  return signs;
}

void AppendPiece(PieceKind kind, int64_t call_idx, absl::string_view text, std::vector<OutputPiece>& pieces) {
  if (text.empty()) return;
  const bool goes_on =
      !pieces.empty() && kind != PieceKind::kCall && pieces.back().kind == kind && pieces.back().call_idx == call_idx;
  if (!goes_on) pieces.push_back({kind, call_idx, {}});
  pieces.back().text.append(text.data(), text.size());
}

OutputParser::OutputParser(const OutputRules& rules)
    : rules_(rules),
      state_(rules.thinking == Thinking::kNever      ? State::kText
             : rules.thinking == Thinking::kHasBegun ? State::kReasoningStart
                                                     : State::kStart) {}

void OutputParser::Push(absl::string_view text, Pieces& pieces) {
  held_.append(text.data(), text.size());
  while (Step(pieces)) {
  }
}

void OutputParser::Finish(Pieces& pieces) {
  switch (state_) {
    case State::kReasoning:
      return Emit(PieceKind::kReasoning, held_.size(), pieces);
    case State::kSection:
    case State::kHead:
    case State::kBody:
      if (state_ == State::kBody && TakeWholeBody(held_, pieces)) return;
      AppendPiece(PieceKind::kText, -1, opening_, pieces);
      return Emit(PieceKind::kText, held_.size(), pieces);
    case State::kStart:
    case State::kText:
      return Emit(PieceKind::kText, held_.size(), pieces);
    case State::kReasoningStart:  // white space
    case State::kTextStart:
    case State::kArguments:  // nothing
    case State::kTail:       // the beginning of a call's end
    case State::kAfterCall:
    case State::kEnded:
      return Drop(held_.size());
  }
}

bool OutputParser::Step(Pieces& pieces) {
  switch (state_) {
    case State::kStart:
      return TakeStart();
    case State::kReasoningStart:
      return TakeSpace(State::kReasoning);
    case State::kReasoning:
      return TakeReasoning(pieces);
    case State::kTextStart:
      return TakeSpace(State::kText);
    case State::kText:
      return TakeText(pieces);
    case State::kSection:
      return TakeSection(pieces);
    case State::kHead:
      return TakeHead(pieces);
    case State::kBody:
      return TakeBody(pieces);
    case State::kArguments:
      return TakeArguments(pieces);
    case State::kTail:
      return TakeTail();
    case State::kAfterCall:
      return TakeAfterCall();
    case State::kEnded:
      Drop(held_.size());
      return false;
  }
  return false;
}

void OutputParser::Emit(PieceKind kind, size_t num_bytes, Pieces& pieces) {
  AppendPiece(kind, -1, absl::string_view(held_).substr(0, num_bytes), pieces);
  Drop(num_bytes);
}

absl::string_view OutputParser::Words() const { return absl::string_view(held_).substr(0, kMaxWordsBytes); }

bool OutputParser::Awaits(const WordScanner& scanner) const {
  return scanner.outcome() == Outcome::kMore && held_.size() < kMaxWordsBytes;
}

void OutputParser::Drop(size_t num_bytes) {
  held_.erase(0, num_bytes);
  num_spaces_ -= std::min(num_spaces_, num_bytes);
}

size_t OutputParser::SpaceBefore(size_t end) const {
  const absl::string_view fresh = absl::string_view(held_).substr(num_spaces_, end - num_spaces_);
  const size_t space = TrailingSpace(fresh);
  return space == fresh.size() ? end : space;
}

bool OutputParser::TakeStart() {
  num_spaces_ += LeadingSpace(absl::string_view(held_).substr(num_spaces_));
  WordScanner scanner(absl::string_view(held_).substr(num_spaces_));
  scanner.Word(kThink);
  if (scanner.outcome() == Outcome::kMore) return false;
  const bool thinks = scanner.outcome() == Outcome::kFits;
  if (thinks) Drop(num_spaces_ + scanner.pos());
  state_ = thinks ? State::kReasoningStart : State::kText;
  return true;
}

bool OutputParser::TakeSpace(State next) {
  Drop(LeadingSpace(held_));
  if (held_.empty()) return false;
  state_ = next;
  return true;
}

bool OutputParser::TakeReasoning(Pieces& pieces) {
  const absl::string_view held = held_;
  const size_t end = held.find(kEndOfThought, num_spaces_);
  const bool found = end != absl::string_view::npos;
  const size_t decided = found ? end : held.size() - BeginningAtEnd(held, kEndOfThought);
  const size_t space = SpaceBefore(decided);
  Emit(PieceKind::kReasoning, decided - space, pieces);
  num_spaces_ = space;
  if (!found) return false;
  Drop(space + kEndOfThought.size());
  state_ = State::kTextStart;
  return true;
}

bool OutputParser::TakeText(Pieces& pieces) {
  const absl::string_view held = held_;
  if (rules_.tools == nullptr) {
    Emit(PieceKind::kText, held.size(), pieces);
    return false;
  }
  size_t first = absl::string_view::npos, num_held = 0;
  absl::string_view sign;
  for (const absl::string_view candidate : {rules_.tools->calls_begin, rules_.tools->call_begin}) {
    if (candidate.empty()) continue;
    const size_t at = held.find(candidate, num_spaces_);
    num_held = std::max(num_held, BeginningAtEnd(held, candidate));
    if (at >= first) continue;
    first = at;
    sign = candidate;
  }
  const bool found = !sign.empty();
  const size_t decided = found ? first : held.size() - num_held;
  const size_t space = SpaceBefore(decided), num_text = decided - space;
  opening_ = found ? std::string(held.substr(num_text, first + sign.size() - num_text)) : "";
  Emit(PieceKind::kText, num_text, pieces);
  num_spaces_ = space;
  if (!found) return false;
  Drop(opening_.size());
  state_ = sign == rules_.tools->call_begin ? State::kHead : State::kSection;
  return true;
}

// It was text, and what follows is looked at afresh.
bool OutputParser::NoCall(Pieces& pieces) {
  AppendPiece(PieceKind::kText, -1, opening_, pieces);
  opening_.clear();
  state_ = State::kText;
  return true;
}

bool OutputParser::TakeSection(Pieces& pieces) {
  WordScanner scanner(Words());
  scanner.Space().Word(rules_.tools->call_begin);
  if (Awaits(scanner)) return false;
  if (scanner.outcome() != Outcome::kFits) return NoCall(pieces);
  opening_ += held_.substr(0, scanner.pos());
  Drop(scanner.pos());
  state_ = State::kHead;
  return true;
}

bool OutputParser::TakeHead(Pieces& pieces) {
  const ToolFormat& format = *rules_.tools;
  absl::string_view name;
  WordScanner scanner(Words());
  scanner.Words(format.before_name);
  if (!format.body_is_json) scanner.Space();
  scanner.Until(kNoNameBytes, kMaxNameBytes, &name).Words(format.before_arguments).Space().Before('{');
  if (Awaits(scanner)) return false;
  if (scanner.outcome() == Outcome::kFits) {
    BeginCall(name, pieces);
    Drop(scanner.pos());
    state_ = State::kArguments;
    return true;
  }
  if (!format.body_is_json) return NoCall(pieces);
  state_ = State::kBody;
  return true;
}

void OutputParser::BeginCall(absl::string_view name, Pieces& pieces) {
  AppendPiece(PieceKind::kCall, num_calls_++, name, pieces);
  opening_.clear();
  depth_ = 0;
  in_string_ = escaped_ = false;
}

bool OutputParser::TakeBody(Pieces& pieces) {
  const absl::string_view body = absl::string_view(held_).substr(0, kMaxBodyBytes), call_end = rules_.tools->call_end;
  const size_t end = body.find(call_end), next = body.find(rules_.tools->call_begin);
  const bool ends = end != absl::string_view::npos;
  if (next < end || (!ends && body.size() == kMaxBodyBytes)) return NoCall(pieces);
  if (!ends) return false;
  if (!TakeWholeBody(body.substr(0, end), pieces)) return NoCall(pieces);
  Drop(end + call_end.size());
  EndCall();
  return true;
}

// {"name": .., "arguments" or "parameters": an object, or one as a text}, in any order.
bool OutputParser::TakeWholeBody(absl::string_view body, Pieces& pieces) {
  if (!JsonDocument::Parse(std::string(body), "call").ok()) return false;
  const Json call = Json::parse(body);
  const auto name = call.find("name");
  if (!call.is_object() || name == call.end() || !name->is_string()) return false;
  const std::string text = name->get<std::string>();
  if (text.empty() || text.size() > kMaxNameBytes) return false;
  const auto arguments = call.find(call.contains("arguments") ? "arguments" : "parameters");
  const bool is_text = arguments != call.end() && arguments->is_string();
  if (arguments != call.end() && !is_text && !arguments->is_object()) return false;
  BeginCall(text, pieces);
  AppendPiece(PieceKind::kArguments, num_calls_ - 1,
              arguments == call.end() ? "{}"
              : is_text               ? arguments->get<std::string>()
                                      : arguments->dump(),
              pieces);
  return true;
}

bool OutputParser::TakeArguments(Pieces& pieces) {
  size_t size = 0;
  bool ended = false;
  while (size < held_.size() && !ended) {
    const char c = held_[size];
    // Neither is JSON outside of texts: the call ends without its last braces.
    if (!in_string_ && (c == '<' || c == '`')) {
      ended = true;
      break;
    }
    size += 1;
    if (in_string_) {
      in_string_ = escaped_ || c != '"';
      escaped_ = !escaped_ && c == '\\';
    } else if (c == '"') {
      in_string_ = true;
    } else if (c == '{' || c == '[') {
      depth_ += 1;
    } else if (c == '}' || c == ']') {
      depth_ -= 1;
      ended = depth_ == 0;
    }
  }
  AppendPiece(PieceKind::kArguments, num_calls_ - 1, absl::string_view(held_).substr(0, size), pieces);
  Drop(size);
  if (ended) state_ = State::kTail;
  return ended;
}

bool OutputParser::TakeTail() {
  WordScanner scanner(Words());
  scanner.OptionalWords(rules_.tools->after_arguments).Space().Word(rules_.tools->call_end);
  if (Awaits(scanner)) return false;
  Drop(scanner.pos());  // where the model goes on without having ended its call, the rest is text
  EndCall();
  return true;
}

bool OutputParser::TakeAfterCall() {
  WordScanner scanner(held_);
  scanner.Space();
  Drop(scanner.pos());
  if (held_.empty()) return false;
  const absl::string_view end = rules_.tools->calls_end;
  if (!end.empty() && absl::StartsWith(held_, end)) {
    Drop(end.size());
    return true;
  }
  if (!end.empty() && absl::StartsWith(end, held_)) return false;
  state_ = State::kText;
  return true;
}

}  // namespace tokenferry

#include "runtime/serve/grammar/json_pieces.h"

#include <algorithm>

#include "absl/strings/string_view.h"

namespace tokenferry {

using Node = AutomatonBuilder::Node;

Node JsonPieces::Space(Node at) {
  constexpr int kMaxIndent = 16;
  const Node end = builder_.NewNode();
  builder_.Join(at, end);
  builder_.Byte(at, ' ', ' ', end);
  Node indent = builder_.Byte(at, '\n', '\n');
  builder_.Join(indent, end);
  for (int i = 0; i < kMaxIndent; ++i) {
    const Node next = builder_.Byte(indent, ' ', ' ');
    builder_.Byte(indent, '\t', '\t', next);
    builder_.Join(next, end);
    indent = next;
  }
  return end;
}

Node JsonPieces::Hex(Node at) {
  const Node to = builder_.NewNode();
  builder_.Byte(at, '0', '9', to);
  builder_.Byte(at, 'A', 'F', to);
  builder_.Byte(at, 'a', 'f', to);
  return to;
}

// What may stand behind a backslash.
Node JsonPieces::Escape(Node at) {
  const Node end = builder_.NewNode();
  for (const char c : absl::string_view("\"\\/bfnrt")) {
    builder_.Byte(at, static_cast<uint8_t>(c), static_cast<uint8_t>(c), end);
  }
  const Node code = builder_.Byte(at, 'u', 'u');
  // The first two digits are not D8 to DF: those are halves of pairs.
  const Node second = builder_.NewNode();
  const Node first = builder_.NewNode();
  builder_.Byte(code, '0', '9', first);
  builder_.Byte(code, 'A', 'C', first);
  builder_.Byte(code, 'E', 'F', first);
  builder_.Byte(code, 'a', 'c', first);
  builder_.Byte(code, 'e', 'f', first);
  builder_.Join(Hex(first), second);
  const Node d = builder_.NewNode();
  builder_.Byte(code, 'D', 'D', d);
  builder_.Byte(code, 'd', 'd', d);
  builder_.Byte(d, '0', '7', second);
  builder_.Join(Hex(Hex(second)), end);
  return end;
}

// Of one byte, and no escape.
void JsonPieces::AppendAscii(Node at, Node to) {
  builder_.Byte(at, 0x20, '"' - 1, to);
  builder_.Byte(at, '"' + 1, '\\' - 1, to);
  builder_.Byte(at, '\\' + 1, 0x7F, to);
}

void JsonPieces::AppendEscapesAndUtf8(Node at, Node to) {
  builder_.Join(Escape(builder_.Byte(at, '\\', '\\')), to);
  // UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, nothing beyond U+10FFFF.
  const auto rest = [this, to](Node from, uint8_t first, uint8_t last, int num_more) {
    Node next = builder_.Byte(from, first, last);
    for (int i = 0; i < num_more; ++i) next = builder_.Byte(next, 0x80, 0xBF);
    builder_.Join(next, to);
  };
  rest(builder_.Byte(at, 0xC2, 0xDF), 0x80, 0xBF, 0);
  rest(builder_.Byte(at, 0xE0, 0xE0), 0xA0, 0xBF, 1);
  rest(builder_.Byte(at, 0xE1, 0xEC), 0x80, 0xBF, 1);
  rest(builder_.Byte(at, 0xED, 0xED), 0x80, 0x9F, 1);
  rest(builder_.Byte(at, 0xEE, 0xEF), 0x80, 0xBF, 1);
  rest(builder_.Byte(at, 0xF0, 0xF0), 0x90, 0xBF, 2);
  rest(builder_.Byte(at, 0xF1, 0xF3), 0x80, 0xBF, 2);
  rest(builder_.Byte(at, 0xF4, 0xF4), 0x80, 0x8F, 2);
}

Node JsonPieces::Character(Node at) {
  const Node end = builder_.NewNode();
  AppendAscii(at, end);
  AppendEscapesAndUtf8(at, end);
  return end;
}

// The same with one state instead of about fourteen: characters of several bytes are a rule, which all places share.
Node JsonPieces::CountedCharacter(Node at) {
  if (!character_) {
    character_ = builder_.NewRule();
    const Node end = builder_.NewNode();
    AppendEscapesAndUtf8(builder_.RuleBegin(*character_), end);
    builder_.EndRule(*character_, end);
  }
  const Node end = builder_.NewNode();
  AppendAscii(at, end);
  builder_.Call(at, *character_, end);
  return end;
}

Node JsonPieces::String(Node at) { return String(at, 0, std::nullopt); }

Node JsonPieces::String(Node at, int64_t least, std::optional<int64_t> most) {
  // A rule cannot be told from other texts that begin like it, so that only what would take many states uses it.
  constexpr int64_t kSpelledOut = 64;
  const bool is_long = std::max(least, most.value_or(0)) > kSpelledOut;
  const auto character = [&](Node from) { return is_long ? CountedCharacter(from) : Character(from); };
  Node body = builder_.Byte(at, '"', '"');
  for (int64_t i = 0; i < least && !builder_.too_large(); ++i) body = character(body);
  const Node before_quote = builder_.NewNode();
  builder_.Join(body, before_quote);
  if (!most) builder_.Join(character(before_quote), before_quote);
  for (int64_t i = least; most && i < *most && !builder_.too_large(); ++i) {
    body = character(body);
    builder_.Join(body, before_quote);
  }
  return builder_.Byte(before_quote, '"', '"');
}

// One to `most` of them.
Node JsonPieces::Digits(Node at, int most) {
  const Node end = builder_.NewNode();
  for (int i = 0; i < most; ++i) {
    at = builder_.Byte(at, '0', '9');
    builder_.Join(at, end);
  }
  return end;
}

Node JsonPieces::Integer(Node at) {
  constexpr int kMaxDigits = 16;
  const Node unsigned_part = builder_.NewNode(), end = builder_.NewNode();
  builder_.Join(at, unsigned_part);
  builder_.Byte(at, '-', '-', unsigned_part);
  builder_.Byte(unsigned_part, '0', '0', end);
  const Node first = builder_.Byte(unsigned_part, '1', '9');
  builder_.Join(first, end);
  builder_.Join(Digits(first, kMaxDigits - 1), end);
  return end;
}

Node JsonPieces::Number(Node at) {
  constexpr int kMaxFraction = 16, kMaxExponent = 2;  // any such number is a double
  const Node whole = Integer(at), mantissa = builder_.NewNode(), end = builder_.NewNode();
  builder_.Join(whole, mantissa);
  builder_.Join(Digits(builder_.Byte(whole, '.', '.'), kMaxFraction), mantissa);
  builder_.Join(mantissa, end);
  const Node exponent = builder_.NewNode(), sign = builder_.NewNode();
  builder_.Byte(mantissa, 'e', 'e', exponent);
  builder_.Byte(mantissa, 'E', 'E', exponent);
  builder_.Join(exponent, sign);
  builder_.Byte(exponent, '+', '+', sign);
  builder_.Byte(exponent, '-', '-', sign);
  builder_.Join(Digits(sign, kMaxExponent), end);
  return end;
}

Node JsonPieces::Boolean(Node at) {
  const Node end = builder_.NewNode();
  builder_.Join(builder_.Text(at, "true"), end);
  builder_.Join(builder_.Text(at, "false"), end);
  return end;
}

Node JsonPieces::Object(Node at) {
  if (!object_) {
    object_ = builder_.NewRule();
    Node inside = Space(builder_.Byte(builder_.RuleBegin(*object_), '{', '{'));
    const Node end = builder_.NewNode();
    builder_.Join(inside, end);
    const Node key = builder_.NewNode();
    builder_.Join(inside, key);
    const Node value = Value(Space(builder_.Byte(String(key), ':', ':')));
    builder_.Join(Space(builder_.Byte(value, ',', ',')), key);
    builder_.Join(Space(value), end);
    builder_.EndRule(*object_, builder_.Byte(end, '}', '}'));
  }
  return builder_.Call(at, *object_);
}

Node JsonPieces::Array(Node at) {
  if (!array_) {
    array_ = builder_.NewRule();
    const Node inside = Space(builder_.Byte(builder_.RuleBegin(*array_), '[', '['));
    const Node end = builder_.NewNode(), item = builder_.NewNode();
    builder_.Join(inside, end);
    builder_.Join(inside, item);
    const Node value = Value(item);
    builder_.Join(Space(builder_.Byte(value, ',', ',')), item);
    builder_.Join(Space(value), end);
    builder_.EndRule(*array_, builder_.Byte(end, ']', ']'));
  }
  return builder_.Call(at, *array_);
}

Node JsonPieces::Value(Node at) {
  const Node end = builder_.NewNode();
  for (const Node value : {String(at), Number(at), Boolean(at), Null(at), Object(at), Array(at)}) {
    builder_.Join(value, end);
  }
  return end;
}

}  // namespace tokenferry

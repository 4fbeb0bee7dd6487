#include "runtime/serve/grammar/string_pattern.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "runtime/serve/grammar/code_points.h"
#include "runtime/serve/grammar/regex_syntax.h"

namespace tokenferry {
namespace {

using Kind = Regex::Kind;
using Node = AutomatonBuilder::Node;
using State = int32_t;

// What an alternative is bound to.
struct Anchors {
  bool to_begin = false, to_end = false;
};

absl::Status TooManyStates() {
  return absl::InvalidArgumentError(absl::StrCat("pattern: takes more than ", kMaxAutomatonStates, " states"));
}

// Thompson's construction over characters, of a text as a whole. Refers to the expression.
class CharacterAutomaton {
 public:
  struct Edge {
    const CodePointSet* characters;
    State to;
  };
  struct StateEdges {
    std::vector<Edge> characters;
    std::vector<State> joined;
  };

  absl::Status Build(const Regex& regex) {
    TF_RETURN_IF_ERROR(NewState().status());  // kBegin
    TF_RETURN_IF_ERROR(NewState().status());  // kEnd
    return Whole(absl::MakeConstSpan(&regex, 1), {});
  }

  static constexpr State kBegin = 0, kEnd = 1;
  const StateEdges& at(State state) const { return states_[state]; }

 private:
  using StateOr = absl::StatusOr<State>;

  StateOr NewState() {
    if (states_.size() >= kMaxAutomatonStates) return TooManyStates();
    states_.emplace_back();
    return static_cast<State>(states_.size()) - 1;
  }
  void Join(State from, State to) { states_[from].joined.push_back(to); }

  // From kBegin to kEnd: the parts one after the other, and any text before and behind them where they are not bound.
  absl::Status Whole(absl::Span<const Regex> parts, Anchors anchors) {
    while (!parts.empty() && parts.front().kind == Kind::kTextBegin) {
      anchors.to_begin = true;
      parts.remove_prefix(1);
    }
    while (!parts.empty() && parts.back().kind == Kind::kTextEnd) {
      anchors.to_end = true;
      parts.remove_suffix(1);
    }
    if (parts.size() == 1 && parts[0].kind == Kind::kSequence) return Whole(parts[0].parts, anchors);
    if (parts.size() == 1 && parts[0].kind == Kind::kAlternatives) {
      for (const Regex& part : parts[0].parts) TF_RETURN_IF_ERROR(Whole(absl::MakeConstSpan(&part, 1), anchors));
      return absl::OkStatus();
    }
    TF_ASSIGN_OR_RETURN(State at, anchors.to_begin ? NewState() : AnyText());
    Join(kBegin, at);
    TF_ASSIGN_OR_RETURN(at, Sequence(at, parts));
    TF_ASSIGN_OR_RETURN(const State end, anchors.to_end ? NewState() : AnyText());
    Join(at, end);
    Join(end, kEnd);
    return absl::OkStatus();
  }

  StateOr AnyText() {
    TF_ASSIGN_OR_RETURN(const State at, NewState());
    states_[at].characters.push_back({&any_, at});
    return at;
  }

  StateOr Sequence(State at, absl::Span<const Regex> parts) {
    for (const Regex& part : parts) {
      TF_ASSIGN_OR_RETURN(at, Part(at, part));
    }
    return at;
  }

  StateOr Part(State at, const Regex& part) {
    switch (part.kind) {
      case Kind::kCharacter: {
        TF_ASSIGN_OR_RETURN(const State to, NewState());
        states_[at].characters.push_back({&part.characters, to});
        return to;
      }
      case Kind::kSequence:
        return Sequence(at, part.parts);
      case Kind::kAlternatives: {
        TF_ASSIGN_OR_RETURN(const State end, NewState());
        for (const Regex& alternative : part.parts) {
          TF_ASSIGN_OR_RETURN(const State reached, Part(at, alternative));
          Join(reached, end);
        }
        return end;
      }
      case Kind::kRepeat:
        return Repeat(at, part);
      case Kind::kTextBegin:
      case Kind::kTextEnd:
        break;
    }
    return absl::InvalidArgumentError(
        "pattern: '^' and '$' are supported at the beginning and at the end of an alternative only");
  }

  // Each time has a state of its own, so that their number is bounded whatever is repeated.
  StateOr Repeat(State at, const Regex& repeat) {
    const Regex& part = repeat.parts[0];
    const auto once_more = [&](State from) -> StateOr {
      TF_ASSIGN_OR_RETURN(const State begin, NewState());
      Join(from, begin);
      return Part(begin, part);
    };
    for (int i = 0; i < repeat.least; ++i) {
      TF_ASSIGN_OR_RETURN(at, once_more(at));
    }
    TF_ASSIGN_OR_RETURN(const State end, NewState());
    Join(at, end);
    if (repeat.most < 0) {
      TF_ASSIGN_OR_RETURN(const State again, once_more(end));
      Join(again, end);
    }
    for (int i = repeat.least; i < repeat.most; ++i) {
      TF_ASSIGN_OR_RETURN(at, once_more(at));
      Join(at, end);
    }
    return end;
  }

  const CodePointSet any_ = Complement({});
  std::vector<StateEdges> states_;
};

// The same over bytes, with as many copies of each state as there are lengths to tell apart.
class ByteNodes {
 public:
  ByteNodes(const CharacterAutomaton& from, const StringLength& length, AutomatonBuilder& builder)
      : from_(from), length_(length), builder_(builder) {}

  absl::Status Append(Node begin, Node end) {
    builder_.Join(begin, NodeOf({CharacterAutomaton::kBegin, 0}));
    while (!open_.empty()) {
      if (builder_.too_large()) return TooManyStates();
      const Copy copy = open_.back();
      open_.pop_back();
      const Node node = NodeOf(copy);
      const CharacterAutomaton::StateEdges& edges = from_.at(copy.first);
      TF_RETURN_IF_ERROR(builder_.Spend(static_cast<int64_t>(1 + edges.joined.size())));
      for (const State to : edges.joined) builder_.Join(node, NodeOf({to, copy.second}));
      if (copy.first == CharacterAutomaton::kEnd && copy.second >= length_.least) builder_.Join(node, end);
      if (length_.most && copy.second == *length_.most) continue;
      // Without a limit all lengths from the least on are alike.
      const int64_t next = length_.most ? copy.second + 1 : std::min(copy.second + 1, length_.least);
      for (const CharacterAutomaton::Edge& edge : edges.characters) {
        TF_RETURN_IF_ERROR(builder_.Spend(static_cast<int64_t>(100 + edge.characters->size())));
        AppendCharacter(node, *edge.characters, NodeOf({edge.to, next}), builder_);
      }
    }
    return absl::OkStatus();
  }

 private:
  using Copy = std::pair<State, int64_t>;  // and how many characters have been read

  Node NodeOf(const Copy& copy) {
    const auto [found, is_new] = nodes_.emplace(copy, 0);
    if (is_new) {
      found->second = builder_.NewNode();
      open_.push_back(copy);
    }
    return found->second;
  }

  const CharacterAutomaton& from_;
  const StringLength length_;
  AutomatonBuilder& builder_;
  std::map<Copy, Node> nodes_;
  std::vector<Copy> open_;
};

}  // namespace

std::string PatternOfFormat(absl::string_view format) {
  constexpr absl::string_view kDate = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])";
  constexpr absl::string_view kTime =
      "([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])";
  constexpr absl::string_view kHex = "[0-9a-fA-F]";
  if (format == "date") return absl::StrCat("^", kDate, "$");
  if (format == "time") return absl::StrCat("^", kTime, "$");
  if (format == "date-time") return absl::StrCat("^", kDate, "T", kTime, "$");
  if (format == "uuid") return absl::StrCat("^", kHex, "{8}(-", kHex, "{4}){3}-", kHex, "{12}$");
  if (format == "duration") {
    constexpr absl::string_view kDays = "([0-9]+D|[0-9]+M([0-9]+D)?|[0-9]+Y([0-9]+M([0-9]+D)?)?)";
    constexpr absl::string_view kTimes = "T([0-9]+S|[0-9]+M([0-9]+S)?|[0-9]+H([0-9]+M([0-9]+S)?)?)";
    return absl::StrCat("^P(", kDays, "(", kTimes, ")?|", kTimes, "|[0-9]+W)$");
  }
  if (format == "ipv4") {
    constexpr absl::string_view kByte = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
    return absl::StrCat("^(", kByte, "\\.){3}", kByte, "$");
  }
  if (format == "ipv6") {
    constexpr absl::string_view kGroup = "[0-9a-fA-F]{1,4}";
    const std::string before = absl::StrCat("(", kGroup, ":)"), after = absl::StrCat("(:", kGroup, ")");
    std::string pattern = absl::StrCat("^(", before, "{7}", kGroup, "|", before, "{1,7}:|:", after, "{1,7}|::");
    for (int i = 1; i <= 6; ++i) absl::StrAppend(&pattern, "|", before, "{1,", i, "}", after, "{1,", 7 - i, "}");
    return absl::StrCat(pattern, ")$");
  }
  constexpr absl::string_view kLabel = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?";
  if (format == "hostname") return absl::StrCat("^", kLabel, "(\\.", kLabel, ")*$");
  if (format == "email") {
    constexpr absl::string_view kAtom = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+";
    // Labels of any length, which takes few states for each of a `maxLength`.
    constexpr absl::string_view kAnyLabel = "[A-Za-z0-9]+(-+[A-Za-z0-9]+)*";
    return absl::StrCat("^", kAtom, "(\\.", kAtom, ")*@(", kAnyLabel, "\\.)+[A-Za-z]{2,}$");
  }
  return "";
}

absl::StatusOr<Node> AppendMatchingString(Node at, absl::string_view pattern, const StringLength& length,
                                          AutomatonBuilder& builder) {
  TF_ASSIGN_OR_RETURN(const Regex regex, ParseRegex(pattern));
  CharacterAutomaton characters;
  TF_RETURN_IF_ERROR(characters.Build(regex));
  const Node end = builder.NewNode();
  TF_RETURN_IF_ERROR(ByteNodes(characters, length, builder).Append(builder.Byte(at, '"', '"'), end));
  return builder.Byte(end, '"', '"');
}

}  // namespace tokenferry

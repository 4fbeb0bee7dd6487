// The input is a byte of rules, one that says how long the pieces are, and the text of an answer. What comes of it must
// not depend on how it is cut, and texts and reasoning have no byte that was not there.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/check.h"
#include "runtime/serve/tools/output_parser.h"

namespace {

using namespace tokenferry;

std::vector<OutputPiece> Parse(const OutputRules& rules, absl::string_view text, size_t piece_size) {
  OutputParser parser(rules);
  std::vector<OutputPiece> all;
  for (size_t at = 0; at < text.size(); at += piece_size) {
    std::vector<OutputPiece> pieces;
    parser.Push(text.substr(at, piece_size), pieces);
    for (const OutputPiece& piece : pieces) AppendPiece(piece.kind, piece.call_idx, piece.text, all);
  }
  parser.Finish(all);
  return all;
}

std::string Shown(const std::vector<OutputPiece>& pieces) {
  std::string outcome;
  for (const OutputPiece& piece : pieces) {
    absl::StrAppend(&outcome, static_cast<int>(piece.kind), ":", piece.call_idx, ":", piece.text, "\n");
  }
  return outcome;
}

// Whether what is said and thought is the text with some bytes left out.
bool IsPartOf(const std::vector<OutputPiece>& pieces, absl::string_view text) {
  for (const OutputPiece& piece : pieces) {
    if (piece.kind != PieceKind::kText && piece.kind != PieceKind::kReasoning) continue;
    for (const char c : piece.text) {
      const size_t at = text.find(c);
      if (at == absl::string_view::npos) return false;
      text.remove_prefix(at + 1);
    }
  }
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2 || size > 4096) return 0;
  const ToolFormat* const formats[] = {nullptr, &HermesFormat(), &DeepSeekV3Format(), &DeepSeekV31Format()};
  const OutputRules rules = {formats[data[0] % 4], static_cast<Thinking>(data[0] / 4 % 3),
                             static_cast<CallCount>(data[0] / 12 % 2)};
  const absl::string_view text(reinterpret_cast<const char*>(data + 2), size - 2);
  const std::vector<OutputPiece> pieces = Parse(rules, text, text.size() + 1);
  TF_CHECK(IsPartOf(pieces, text));
  const std::string whole = Shown(pieces);
  TF_CHECK(Shown(Parse(rules, text, 1)) == whole);
  TF_CHECK(Shown(Parse(rules, text, 1 + data[1] % 32)) == whole);
  return 0;
}

#include "runtime/text/sentencepiece_load.h"

#include <memory>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/io/foreign_text.h"
#include "core/io/range_file.h"
#include "runtime/text/sentencepiece_library.h"

namespace tokenferry {

absl::StatusOr<VocabIds> LoadSentencePiece(const std::string& path, Tokenizer::Data& data) {
  constexpr int64_t kMaxBytes = int64_t{128} << 20;
  TF_ASSIGN_OR_RETURN(const std::string bytes, ReadTextFile(path, kMaxBytes));
  TF_RETURN_IF_ERROR(CheckNotForeign(path, bytes));
  auto library = std::make_shared<SentencePieceLibrary>();
  if (const std::string problem = library->Load(bytes); !problem.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", problem));
  }
  data.decoder.bytes = BytesOfTokens::kByteFallback;
  data.decoder.replacements = {{"\u2581", " "}};
  data.decoder.strip_character = ' ';
  VocabIds ids;
  for (const SentencePieceLibrary::Piece& piece : library->Pieces()) {
    const auto id = static_cast<int32_t>(ids.size());
    if (piece.kind == SentencePieceLibrary::Kind::kByte && FallbackByte(piece.text) < 0) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": the byte token ", id, " is '", piece.text, "'"));
    }
    if (!ids.emplace(piece.text, id).second) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": token ", id, " stands in the vocabulary twice"));
    }
    data.AddToken(id, piece.text);
    const bool is_special =
        piece.kind == SentencePieceLibrary::Kind::kControl || piece.kind == SentencePieceLibrary::Kind::kUnknown;
    if (is_special) data.special_ids.insert(id);
  }
  // A model that puts a space before each text; others have none to take off again.
  const std::vector<int> letter = library->Encode("a");
  if (!letter.empty() && absl::StartsWith(library->Pieces()[static_cast<size_t>(letter[0])].text, "\u2581")) {
    data.decoder.num_strip = 1;
  }
  data.bos_id = library->bos_id();
  data.eos_id = library->eos_id();
  data.model = SentencePieceModel(std::move(library));
  return ids;
}

}  // namespace tokenferry

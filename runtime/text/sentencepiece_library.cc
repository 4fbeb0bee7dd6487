#include "runtime/text/sentencepiece_library.h"

#include <sentencepiece_processor.h>

namespace tokenferry {

struct SentencePieceLibrary::Contents {
  sentencepiece::SentencePieceProcessor processor;
};

SentencePieceLibrary::SentencePieceLibrary() : contents_(std::make_unique<Contents>()) {}
SentencePieceLibrary::~SentencePieceLibrary() = default;

std::string SentencePieceLibrary::Load(const std::string& bytes) {
  const auto status = contents_->processor.LoadFromSerializedProto(bytes);
  if (status.ok()) return "";
  return status.message() == nullptr || *status.message() == '\0' ? "no SentencePiece model" : status.message();
}

std::vector<SentencePieceLibrary::Piece> SentencePieceLibrary::Pieces() const {
  const sentencepiece::SentencePieceProcessor& processor = contents_->processor;
  std::vector<Piece> pieces;
  for (int id = 0; id < processor.GetPieceSize(); ++id) {
    Kind kind = Kind::kNormal;
    if (processor.IsUnknown(id)) kind = Kind::kUnknown;
    if (processor.IsControl(id)) kind = Kind::kControl;
    if (processor.IsUnused(id)) kind = Kind::kUnused;
    if (processor.IsByte(id)) kind = Kind::kByte;
    pieces.push_back({processor.IdToPiece(id), kind});
  }
  return pieces;
}

int SentencePieceLibrary::bos_id() const { return contents_->processor.bos_id(); }
int SentencePieceLibrary::eos_id() const { return contents_->processor.eos_id(); }

std::vector<int> SentencePieceLibrary::Encode(std::string_view text) const {
  return contents_->processor.EncodeAsIds(text);
}

}  // namespace tokenferry

#include "runtime/text/sentencepiece_model.h"

#include <string_view>
#include <utility>

#include "runtime/text/sentencepiece_library.h"
#include "runtime/text/token_decoder.h"

namespace tokenferry {

SentencePieceModel::SentencePieceModel(std::shared_ptr<const SentencePieceLibrary> library)
    : library_(std::move(library)) {
  byte_ids_.fill(-1);
  for (SentencePieceLibrary::Piece& piece : library_->Pieces()) {
    const auto id = static_cast<int32_t>(pieces_.size());
    if (piece.kind == SentencePieceLibrary::Kind::kUnknown) unk_id_ = id;
    if (piece.kind == SentencePieceLibrary::Kind::kByte) {
      byte_ids_[static_cast<size_t>(FallbackByte(piece.text))] = id;
    }
    pieces_.push_back(std::move(piece.text));
  }
}

void SentencePieceModel::Append(const absl::flat_hash_set<int32_t>* banned, absl::string_view text,
                                std::vector<int32_t>& out) const {
  for (const int id : library_->Encode(std::string_view(text.data(), text.size()))) {
    if (banned == nullptr || !banned->contains(id)) {
      out.push_back(id);
      continue;
    }
    for (const char byte : pieces_[static_cast<size_t>(id)]) {
      const int32_t byte_id = byte_ids_[static_cast<uint8_t>(byte)];
      out.push_back(byte_id >= 0 ? byte_id : unk_id_);
    }
  }
}

}  // namespace tokenferry

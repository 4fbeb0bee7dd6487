// SentencePiece models (tokenizer.model), run by libsentencepiece.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"
#include "core/status.h"

namespace tokenferry {

class SentencePieceLibrary;

class SentencePieceModel {
 public:
  explicit SentencePieceModel(std::shared_ptr<const SentencePieceLibrary> library);

  // Appends the ids of a text. The library never makes control tokens of text; of a user-defined one that is in
  // `banned` the bytes are taken, or the unknown token. A space is put before the text if the model says so, as
  // transformers' classes do for every text between added tokens.
  void Append(const absl::flat_hash_set<int32_t>* banned, absl::string_view text, std::vector<int32_t>& out) const;

 private:
  std::shared_ptr<const SentencePieceLibrary> library_;
  std::vector<std::string> pieces_;    // by id
  std::array<int32_t, 256> byte_ids_;  // -1: none
  int32_t unk_id_ = -1;
};

}  // namespace tokenferry

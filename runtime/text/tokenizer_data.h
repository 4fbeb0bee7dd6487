// What a loaded tokenizer consists of; private to the tokenizer.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "runtime/text/bpe.h"
#include "runtime/text/normalizer.h"
#include "runtime/text/pretokenizer.h"
#include "runtime/text/sentencepiece_model.h"
#include "runtime/text/token_decoder.h"
#include "runtime/text/tokenizer.h"
#include "runtime/text/tokenizer_added.h"
#include "runtime/text/unigram.h"

namespace tokenferry {

using TokenModel = std::variant<BpeModel, UnigramModel, SentencePieceModel>;

struct Tokenizer::Data {
  AddedTokenMatcher raw_tokens;         // searched first, in the text as it is
  Normalizer normalizer;                // then the rest is normalized
  AddedTokenMatcher normalized_tokens;  // then these are searched
  Pretokenizer pretokenizer;            // then the rest is cut into pieces
  TokenModel model;                     // then each piece becomes ids
  TokenDecoder decoder;                 // and back

  absl::flat_hash_map<int32_t, std::string> token_bytes;  // vocabulary and added tokens, as they appear in decoded text
  absl::flat_hash_set<int32_t> byte_tokens;               // kByteFallback: those that stand for one byte
  absl::flat_hash_set<int32_t> special_ids;
  absl::flat_hash_set<int32_t> control_ids;     // those, and added tokens that are not IsOrdinaryText: a template's
  std::vector<int32_t> prefix_ids, suffix_ids;  // around a plain prompt
  int32_t max_id = -1;
  int32_t bos_id = -1;
  int32_t eos_id = -1;

  // Enters a token of the vocabulary, or an added one: its text and its bytes. False: the id has one already.
  bool AddToken(int32_t id, absl::string_view token);
};

}  // namespace tokenferry

// What a loaded tokenizer consists of; private to the tokenizer.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "runtime/text/bpe.h"
#include "runtime/text/pretokenizer.h"
#include "runtime/text/tokenizer.h"
#include "runtime/text/tokenizer_added.h"

namespace tokenferry {

struct Tokenizer::Data {
  AddedTokenMatcher raw_tokens;         // searched first, in the text as it is
  bool nfc = false;                     // then the rest is normalized
  AddedTokenMatcher normalized_tokens;  // then these are searched
  Pretokenizer pretokenizer;            // then the rest is cut into pieces
  BpeModel bpe;                         // then each piece becomes ids

  absl::flat_hash_map<int32_t, std::string> token_bytes;  // vocabulary and added tokens
  absl::flat_hash_set<int32_t> special_ids;
  int32_t max_id = -1;
  int32_t bos_id = -1;
  int32_t eos_id = -1;
  bool add_bos = false;
};

// The printable characters by which ByteLevel vocabularies write bytes (GPT-2's bytes_to_unicode): 0x21-0x7E, 0xA1-0xAC
// and 0xAE-0xFF are themselves, the other 68 in increasing order are U+0100 and following.
std::array<char32_t, 256> ByteCharacters();

}  // namespace tokenferry

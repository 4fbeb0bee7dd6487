// Byte-pair merging (Sennrich et al. 2016), as huggingface/tokenizers' BPE model does it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"

namespace tokenferry {

struct BpeMerge {
  int32_t rank;  // lower merges first
  int32_t id;    // of the merged token
};

// What merging starts from.
enum class BpeAlphabet : uint8_t {
  kBytes,       // ByteLevel vocabularies, and tiktoken's
  kCharacters,  // SentencePiece-style ones; a character that the vocabulary lacks falls back to its bytes
};

struct BpeModel {
  static uint64_t PairKey(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }

  BpeAlphabet alphabet = BpeAlphabet::kBytes;
  absl::flat_hash_map<char32_t, int32_t> character_ids;  // kCharacters
  // Of each byte; -1: there is none. kCharacters: of <0x00> to <0xFF>, all 256 or none.
  std::array<int32_t, 256> byte_ids;
  absl::flat_hash_map<uint64_t, BpeMerge> merges;  // by PairKey
  absl::flat_hash_map<std::string, int32_t> ids;   // piece -> id, only filled for ignore_merges
  bool ignore_merges = false;                      // a piece that is a token is that token, whatever the merges say
  int32_t unk_id = -1;                             // stands for what the vocabulary lacks; -1: that vanishes
  bool fuse_unk = false;                           // one unk_id for a run of them
  // No merge joins what does not end with this character to what begins with it: a piece may be cut there, and its
  // words merged (and remembered) one by one. Empty: it may not.
  std::string word_mark;
};

// Appends the ids of one piece, O(n log n) for n bytes. Ids in `banned` are treated as if neither vocabulary nor merges
// had them (unk_id excepted).
void AppendBpe(const BpeModel& model, const absl::flat_hash_set<int32_t>* banned, absl::string_view piece,
               std::vector<int32_t>& out);

}  // namespace tokenferry

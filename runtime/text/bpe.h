// Byte-pair merging (Sennrich et al. 2016) over the bytes of a piece, as huggingface/tokenizers' BPE model does it.
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

struct BpeModel {
  static uint64_t PairKey(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }

  std::array<int32_t, 256> byte_ids;               // -1: the vocabulary lacks the byte
  absl::flat_hash_map<uint64_t, BpeMerge> merges;  // by PairKey
  absl::flat_hash_map<std::string, int32_t> ids;   // bytes -> id, only filled for ignore_merges
  bool ignore_merges = false;                      // a piece that is a token is that token, whatever the merges say
  int32_t unk_id = -1;                             // stands for a byte the vocabulary lacks; -1: such bytes vanish
  bool fuse_unk = false;                           // one unk_id for a run of them
};

// Appends the ids of one piece, O(n log n) for n bytes. Ids in `banned` are treated as if neither vocabulary nor merges
// had them (unk_id excepted).
void AppendBpe(const BpeModel& model, const absl::flat_hash_set<int32_t>* banned, absl::string_view piece,
               std::vector<int32_t>& out);

}  // namespace tokenferry

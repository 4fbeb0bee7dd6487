// The unigram language model of Kudo 2018 (T5, Switch), as huggingface/tokenizers does it.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"

namespace tokenferry {

class UnigramModel {
 public:
  // `vocabulary`: by id, each with its log-probability, no text twice. `byte_ids`: of <0x00> to <0xFF>, or empty.
  UnigramModel(const std::vector<std::pair<std::string, double>>& vocabulary, int32_t unk_id,
               std::vector<int32_t> byte_ids);

  // Appends the ids of the likeliest way to cut a piece, ties to the one found first. What no token begins becomes
  // bytes, or one unk_id for a run of it. Ids in `banned` are treated as if the vocabulary had not got them. O(n) for n
  // bytes and tokens of bounded length.
  void Append(const absl::flat_hash_set<int32_t>* banned, absl::string_view piece, std::vector<int32_t>& out) const;

 private:
  struct Node {
    uint8_t byte;          // on the way from its parent
    int32_t id;            // of the token that ends here; -1: none
    uint32_t first_child;  // children are neighbours, by byte
    uint16_t num_children;
  };
  // A token or unknown character that ends at a byte, on the likeliest way there.
  struct Step {
    double score = 0;
    int32_t id = -1;
    int64_t begin = -1;  // -1: nothing ends here
  };

  const Node* Child(const Node& node, uint8_t byte) const;
  void Extend(const absl::flat_hash_set<int32_t>* banned, absl::string_view piece, size_t begin,
              std::vector<Step>& steps) const;
  void AppendUnknown(absl::string_view text, std::vector<int32_t>& out) const;

  std::vector<Node> nodes_;  // a trie; the root is the first
  std::vector<double> scores_;
  double unk_score_;
  int32_t unk_id_;
  std::vector<int32_t> byte_ids_;
};

}  // namespace tokenferry

#include "runtime/text/unigram.h"

#include <algorithm>
#include <limits>

#include "runtime/text/unicode.h"

namespace tokenferry {

UnigramModel::UnigramModel(const std::vector<std::pair<std::string, double>>& vocabulary, int32_t unk_id,
                           std::vector<int32_t> byte_ids)
    : unk_id_(unk_id), byte_ids_(std::move(byte_ids)) {
  constexpr double kUnkPenalty = 10;
  double lowest = vocabulary.empty() ? 0 : std::numeric_limits<double>::infinity();
  std::vector<std::pair<absl::string_view, int32_t>> sorted;
  for (const auto& [text, score] : vocabulary) {
    if (!text.empty()) sorted.emplace_back(text, static_cast<int32_t>(scores_.size()));
    scores_.push_back(score);
    lowest = std::min(lowest, score);
  }
  unk_score_ = lowest - kUnkPenalty;
  std::sort(sorted.begin(), sorted.end());

  // Level by level: each open node has a range of tokens that begin with its bytes.
  struct Open {
    uint32_t node;
    size_t begin, end, depth;
  };
  nodes_.push_back({0, -1, 0, 0});
  std::vector<Open> open = {{0, 0, sorted.size(), 0}};
  for (size_t next = 0; next < open.size(); ++next) {
    Open at = open[next];
    if (at.begin < at.end && sorted[at.begin].first.size() == at.depth) nodes_[at.node].id = sorted[at.begin++].second;
    nodes_[at.node].first_child = static_cast<uint32_t>(nodes_.size());
    while (at.begin < at.end) {
      const auto byte = static_cast<uint8_t>(sorted[at.begin].first[at.depth]);
      size_t end = at.begin;
      while (end < at.end && static_cast<uint8_t>(sorted[end].first[at.depth]) == byte) ++end;
      open.push_back({static_cast<uint32_t>(nodes_.size()), at.begin, end, at.depth + 1});
      nodes_.push_back({byte, -1, 0, 0});
      ++nodes_[at.node].num_children;
      at.begin = end;
    }
  }
}

const UnigramModel::Node* UnigramModel::Child(const Node& node, uint8_t byte) const {
  const auto first = nodes_.begin() + node.first_child;
  const auto last = first + node.num_children;
  const auto it = std::lower_bound(first, last, byte, [](const Node& child, uint8_t b) { return child.byte < b; });
  return it == last || it->byte != byte ? nullptr : &*it;
}

// Enters what begins at `begin`.
void UnigramModel::Extend(const absl::flat_hash_set<int32_t>* banned, absl::string_view piece, size_t begin,
                          std::vector<Step>& steps) const {
  const auto offer = [&](size_t end, int32_t id, double score) {
    Step& step = steps[end];
    score += steps[begin].score;
    if (step.begin < 0 || score > step.score) step = {score, id, static_cast<int64_t>(begin)};
  };
  const size_t character_end = CharacterEnd(piece, begin);
  bool has_character = false;
  const Node* node = nodes_.data();
  for (size_t pos = begin; pos < piece.size(); ++pos) {
    node = Child(*node, static_cast<uint8_t>(piece[pos]));
    if (node == nullptr) break;
    if (node->id < 0 || (banned != nullptr && banned->contains(node->id))) continue;
    offer(pos + 1, node->id, scores_[static_cast<size_t>(node->id)]);
    has_character = has_character || pos + 1 == character_end;
  }
  if (!has_character) offer(character_end, unk_id_, unk_score_);
}

void UnigramModel::AppendUnknown(absl::string_view text, std::vector<int32_t>& out) const {
  if (byte_ids_.empty()) {
    out.push_back(unk_id_);
    return;
  }
  for (const char byte : text) out.push_back(byte_ids_[static_cast<uint8_t>(byte)]);
}

void UnigramModel::Append(const absl::flat_hash_set<int32_t>* banned, absl::string_view piece,
                          std::vector<int32_t>& out) const {
  std::vector<Step> steps(piece.size() + 1);
  for (size_t begin = 0; begin < piece.size(); begin = CharacterEnd(piece, begin)) Extend(banned, piece, begin, steps);
  std::vector<std::pair<size_t, int32_t>> ends;  // of the tokens on the way, from the last
  for (size_t end = piece.size(); end > 0; end = static_cast<size_t>(steps[end].begin)) {
    ends.emplace_back(end, steps[end].id);
  }
  size_t begin = 0;
  for (auto it = ends.rbegin(); it != ends.rend();) {
    if (it->second != unk_id_) {
      out.push_back(it->second);
      begin = it++->first;
      continue;
    }
    size_t end = begin;  // of a run of unknown characters
    for (; it != ends.rend() && it->second == unk_id_; ++it) end = it->first;
    AppendUnknown(piece.substr(begin, end - begin), out);
    begin = end;
  }
}

}  // namespace tokenferry

#include "runtime/text/bpe.h"

#include <queue>
#include <tuple>

namespace tokenferry {
namespace {

struct Symbol {
  int32_t id;          // -1: merged into its left neighbour
  int32_t prev, next;  // indices, -1 at the ends
};

struct Candidate {
  int32_t rank;
  int32_t left, right;  // symbol indices
  int32_t left_id, right_id, id;

  // std::priority_queue pops the largest: lowest rank first, then leftmost.
  bool operator<(const Candidate& other) const { return std::tie(rank, left) > std::tie(other.rank, other.left); }
};

class Merger {
 public:
  Merger(const BpeModel& model, const absl::flat_hash_set<int32_t>* banned, std::vector<Symbol>& symbols)
      : model_(model), banned_(banned), symbols_(symbols) {}

  void Run() {
    for (size_t i = 0; i + 1 < symbols_.size(); ++i) Propose(static_cast<int32_t>(i), static_cast<int32_t>(i) + 1);
    while (!queue_.empty()) {
      Candidate c = queue_.top();
      queue_.pop();
      Symbol& left = symbols_[c.left];
      Symbol& right = symbols_[c.right];
      if (left.id != c.left_id || right.id != c.right_id || left.next != c.right) continue;  // stale
      left.id = c.id;
      left.next = right.next;
      right.id = -1;
      if (left.next >= 0) symbols_[left.next].prev = c.left;
      if (left.prev >= 0) Propose(left.prev, c.left);
      if (left.next >= 0) Propose(c.left, left.next);
    }
  }

 private:
  void Propose(int32_t left, int32_t right) {
    auto it = model_.merges.find(BpeModel::PairKey(symbols_[left].id, symbols_[right].id));
    if (it == model_.merges.end() || (banned_ != nullptr && banned_->contains(it->second.id))) return;
    queue_.push({it->second.rank, left, right, symbols_[left].id, symbols_[right].id, it->second.id});
  }

  const BpeModel& model_;
  const absl::flat_hash_set<int32_t>* banned_;
  std::vector<Symbol>& symbols_;
  std::priority_queue<Candidate> queue_;
};

std::vector<Symbol> BytesToSymbols(const BpeModel& model, const absl::flat_hash_set<int32_t>* banned,
                                   absl::string_view piece) {
  std::vector<Symbol> symbols;
  symbols.reserve(piece.size());
  bool after_unk = false;
  for (char byte : piece) {
    int32_t id = model.byte_ids[static_cast<uint8_t>(byte)];
    if (banned != nullptr && banned->contains(id)) id = -1;
    bool is_unk = id < 0;
    if (is_unk && after_unk && model.fuse_unk) continue;
    after_unk = is_unk;
    if (is_unk) id = model.unk_id;
    if (id < 0) continue;
    int32_t i = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, i - 1, i + 1});
  }
  if (!symbols.empty()) symbols.back().next = -1;
  return symbols;
}

}  // namespace

void AppendBpe(const BpeModel& model, const absl::flat_hash_set<int32_t>* banned, absl::string_view piece,
               std::vector<int32_t>& out) {
  if (model.ignore_merges) {
    auto it = model.ids.find(piece);
    if (it != model.ids.end() && (banned == nullptr || !banned->contains(it->second))) {
      out.push_back(it->second);
      return;
    }
  }
  std::vector<Symbol> symbols = BytesToSymbols(model, banned, piece);
  Merger(model, banned, symbols).Run();
  for (const Symbol& symbol : symbols) {
    if (symbol.id >= 0) out.push_back(symbol.id);
  }
}

}  // namespace tokenferry

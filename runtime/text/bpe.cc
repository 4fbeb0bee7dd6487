#include "runtime/text/bpe.h"

#include <queue>
#include <tuple>

#include "runtime/text/unicode.h"

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

// A piece as a chain of symbols.
class SymbolChain {
 public:
  SymbolChain(const BpeModel& model, const absl::flat_hash_set<int32_t>* banned) : model_(model), banned_(banned) {}

  std::vector<Symbol> Of(absl::string_view piece) {
    symbols_.reserve(piece.size());
    if (model_.alphabet == BpeAlphabet::kBytes) {
      for (const char byte : piece) {
        if (!AddKnown(ByteId(byte))) AddUnknown();
      }
    } else {
      for (size_t pos = 0; pos < piece.size();) {
        const size_t begin = pos;
        const auto it = model_.character_ids.find(DecodeUtf8(piece, pos));
        if (it == model_.character_ids.end() || !AddKnown(it->second)) AddBytes(piece.substr(begin, pos - begin));
      }
    }
    if (!symbols_.empty()) symbols_.back().next = -1;
    return std::move(symbols_);
  }

 private:
  int32_t ByteId(char byte) const { return model_.byte_ids[static_cast<uint8_t>(byte)]; }

  bool AddKnown(int32_t id) {
    if (id < 0 || (banned_ != nullptr && banned_->contains(id))) return false;
    Add(id);
    after_unk_ = false;
    return true;
  }
  void AddBytes(absl::string_view character) {
    if (ByteId(character[0]) < 0) return AddUnknown();
    for (const char byte : character) {
      if (!AddKnown(ByteId(byte))) AddUnknown();
    }
  }
  void AddUnknown() {
    if (model_.unk_id >= 0 && !(after_unk_ && model_.fuse_unk)) Add(model_.unk_id);
    after_unk_ = true;
  }
  void Add(int32_t id) {
    const auto i = static_cast<int32_t>(symbols_.size());
    symbols_.push_back({id, i - 1, i + 1});
  }

  const BpeModel& model_;
  const absl::flat_hash_set<int32_t>* banned_;
  std::vector<Symbol> symbols_;
  bool after_unk_ = false;
};

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
  std::vector<Symbol> symbols = SymbolChain(model, banned).Of(piece);
  Merger(model, banned, symbols).Run();
  for (const Symbol& symbol : symbols) {
    if (symbol.id >= 0) out.push_back(symbol.id);
  }
}

}  // namespace tokenferry

#include "runtime/engine/token_masks.h"

#include <algorithm>
#include <utility>

#include "absl/strings/string_view.h"

namespace tokenferry {
namespace {

// 512 masks of 129,280 tokens take 8 MB. When more positions come, all are forgotten: it takes a long text of many
// forms to get there.
constexpr size_t kMaxMasks = 512;

// 4 MiB of tables, which a walk from a state makes for those around it. When more are wanted, all are forgotten.
constexpr size_t kMaxTables = 4096;

// Few positions are not worth a look at which are alike.
constexpr size_t kFewMasks = 32;
// Edges and states that are looked at for it, each about 10 ns: a text of up to 2,000 characters, for tokens of up to
// 128 bytes.
constexpr int64_t kMaxAlikeSteps = 2'000'000;

// In TokenMasks::Table: ask the automaton.
constexpr int32_t kSlow = -1;

// The stacks of a walk, which differ in their ends: each is a chain from its innermost state outwards.
class Stacks {
 public:
  struct Link {
    int32_t state, outer;
    size_t size;
  };
  int32_t Of(const std::vector<int32_t>& states) {
    int32_t top = -1;
    for (const int32_t state : states) top = Push(state, top);
    return top;
  }
  int32_t Push(int32_t state, int32_t outer) {
    links_.push_back({state, outer, outer < 0 ? 1 : at(outer).size + 1});
    return static_cast<int32_t>(links_.size()) - 1;
  }
  const Link& at(int32_t link) const { return links_[link]; }

 private:
  std::vector<Link> links_;
};

// One of them as Advance has it; `top` moves.
struct LinkedStack {
  Stacks& stacks;
  int32_t& top;

  bool empty() const { return top < 0; }
  size_t size() const { return empty() ? 0 : stacks.at(top).size; }
  int32_t back() const { return stacks.at(top).state; }
  void pop_back() { top = stacks.at(top).outer; }
  void push_back(int32_t state) { top = stacks.Push(state, top); }
};

struct WalkPosition {
  int32_t state, top;
};

void Set(std::vector<uint64_t>& mask, int32_t token) { mask[token / 64] |= uint64_t{1} << (token % 64); }

}  // namespace

Vocabulary::Vocabulary(std::vector<std::string> bytes, std::vector<int32_t> special)
    : bytes_(std::move(bytes)), special_(std::move(special)) {
  for (size_t i = 0; i < bytes_.size(); ++i) {
    const auto num_bytes = static_cast<int32_t>(bytes_[i].size());
    max_bytes_ = std::max(max_bytes_, bytes_[i].size());
    if (num_bytes > 0) order_.push_back({static_cast<int32_t>(i), num_bytes, 0});
  }
  std::sort(order_.begin(), order_.end(),
            [this](const Sorted& a, const Sorted& b) { return bytes_[a.token] < bytes_[b.token]; });
  absl::string_view before;
  for (Sorted& sorted : order_) {
    const absl::string_view now = bytes_[sorted.token];
    const auto end = std::mismatch(before.begin(), before.end(), now.begin(), now.end()).first;
    sorted.num_shared = static_cast<int32_t>(end - before.begin());
    sorted_bytes_.append(now.data(), now.size());
    before = now;
  }
}

bool Vocabulary::IsSpecial(int32_t token) const { return std::binary_search(special_.begin(), special_.end(), token); }

TokenMasks::TokenMasks(ByteAutomaton automaton, const Vocabulary& vocabulary)
    : automaton_(std::move(automaton)), tables_(automaton_.is_end.size()), vocabulary_(vocabulary) {}

const TokenMasks::Table& TokenMasks::TableOf(int32_t state) {
  std::unique_ptr<const Table>& table = tables_[state];
  if (table == nullptr) {
    if (num_tables_ == kMaxTables) {
      for (std::unique_ptr<const Table>& old : tables_) old.reset();
      num_tables_ = 0;
    }
    num_tables_ += 1;
    auto made = std::make_unique<Table>();
    made->fill(kSlow);
    for (int32_t i = automaton_.edge_offsets[state]; i < automaton_.edge_offsets[state + 1]; ++i) {
      const ByteAutomaton::Edge& edge = automaton_.edges[i];
      for (int byte = edge.first; byte <= edge.last; ++byte) (*made)[byte] = edge.then < 0 ? edge.target : kSlow;
    }
    table = std::move(made);
  }
  return *table;
}

absl::Span<const uint64_t> TokenMasks::At(const AutomatonPosition& position) {
  AutomatonPosition alike = position;
  if (!alike_.empty()) {
    alike.state = alike_[position.state];
    for (int32_t& state : alike.stack) state = alike_[state];
  }
  auto found = masks_.find(alike);
  if (found == masks_.end()) {
    if (masks_.size() >= kFewMasks && !std::exchange(has_looked_, true)) {
      FindAlike();
      return At(position);
    }
    if (masks_.size() >= kMaxMasks) masks_.clear();
    auto mask = Compute(alike);
    found = masks_.emplace(std::move(alike), std::move(mask)).first;
  }
  return found->second;
}

// States are told apart by one byte more each time, as far as a token reaches. An edge that begins another part reads
// no byte, so that the state behind it counts as it is; where the part has ended at least one has been read.
void TokenMasks::FindAlike() {
  const int num_states = automaton_.num_states();
  std::vector<int32_t> classes(num_states, 0), finer(num_states);
  size_t num_classes = 1;
  int64_t num_steps = 0;
  for (size_t depth = 0; depth < vocabulary_.max_bytes(); ++depth) {
    num_steps += num_states + static_cast<int64_t>(automaton_.edges.size());
    if (num_steps > kMaxAlikeSteps) return;
    absl::flat_hash_map<std::vector<int32_t>, int32_t> found;
    for (int s = 0; s < num_states; ++s) {
      std::vector<int32_t> sign = {automaton_.is_end[s]};
      for (int32_t i = automaton_.edge_offsets[s]; i < automaton_.edge_offsets[s + 1]; ++i) {
        const ByteAutomaton::Edge& edge = automaton_.edges[i];
        sign.push_back(edge.first << 8 | edge.last);
        sign.push_back(edge.then < 0 ? classes[edge.target] : edge.target);
        sign.push_back(edge.then < 0 ? -1 : classes[edge.then]);
      }
      finer[s] = found.emplace(std::move(sign), static_cast<int32_t>(found.size())).first->second;
    }
    classes.swap(finer);
    if (std::exchange(num_classes, found.size()) == found.size()) break;
  }
  std::vector<int32_t> first(num_classes, -1);
  alike_.resize(num_states);
  for (int s = 0; s < num_states; ++s) {
    int32_t& one = first[classes[s]];
    if (one < 0) one = s;
    alike_[s] = one;
  }
}

// A depth-first walk over the tree of the tokens' bytes, which their order is: positions[n] is the one after the first
// n bytes of the current token, of which num_good could be taken.
std::vector<uint64_t> TokenMasks::Compute(const AutomatonPosition& position) {
  std::vector<uint64_t> mask((vocabulary_.bytes_.size() + 63) / 64);
  Stacks stacks;
  std::vector<WalkPosition> positions = {{position.state, stacks.Of(position.stack)}};
  size_t num_good = 0;
  const char* bytes = vocabulary_.sorted_bytes_.data();
  for (const Vocabulary::Sorted& sorted : vocabulary_.order_) {
    const auto num_bytes = static_cast<size_t>(sorted.num_bytes), num_shared = static_cast<size_t>(sorted.num_shared);
    if (num_shared <= num_good) {  // else it begins as one that could not come
      if (positions.size() <= num_bytes) positions.resize(num_bytes + 1);
      for (num_good = num_shared; num_good < num_bytes; ++num_good) {
        const auto byte = static_cast<uint8_t>(bytes[num_good]);
        WalkPosition next = positions[num_good];
        const int32_t fast = TableOf(next.state)[byte];
        if (fast >= 0) {
          next.state = fast;
        } else {
          LinkedStack stack{stacks, next.top};
          if (!tokenferry::Advance(automaton_, byte, next.state, stack)) break;
        }
        positions[num_good + 1] = next;
      }
      if (num_good == num_bytes) Set(mask, sorted.token);
    }
    bytes += num_bytes;
  }
  for (const int32_t token : vocabulary_.special_) {
    const auto& spoken = automaton_.spoken_tokens;
    if (std::find(spoken.begin(), spoken.end(), token) != spoken.end()) continue;
    mask[token / 64] &= ~(uint64_t{1} << (token % 64));
  }
  return mask;
}

bool TokenMasks::Advance(int32_t token, AutomatonPosition& position) const {
  if (token < 0 || token >= vocabulary_.size() || vocabulary_.bytes(token).empty()) return false;
  for (const char byte : vocabulary_.bytes(token)) {
    if (!tokenferry::Advance(automaton_, static_cast<uint8_t>(byte), position)) return false;
  }
  return true;
}

void GrammarRun::Take(int32_t token) {
  if (masks_.ok() && !astray_) astray_ = !(*masks_)->Advance(token, position_);
}

absl::StatusOr<absl::Span<const uint64_t>> GrammarRun::Allowed(absl::Span<const int32_t> stop_tokens) {
  TF_RETURN_IF_ERROR(masks_.status());
  const absl::Span<const uint64_t> mask = (*masks_)->At(position_);
  allowed_.assign(mask.begin(), mask.end());
  if (astray_) std::fill(allowed_.begin(), allowed_.end(), 0);
  const bool may_end = !astray_ && MayEnd((*masks_)->automaton(), position_);
  for (const int32_t token : stop_tokens) {
    const bool known = token >= 0 && token < static_cast<int64_t>(allowed_.size()) * 64;
    if (known && may_end) Set(allowed_, token);
  }
  return absl::MakeConstSpan(allowed_);
}

absl::StatusOr<std::shared_ptr<TokenMasks>> Grammars::Open(const std::string& grammar) {
  if (vocabulary_ == nullptr) return absl::FailedPreconditionError("no vocabulary is there for grammars");
  std::weak_ptr<TokenMasks>& known = open_[grammar];
  std::shared_ptr<TokenMasks> masks = known.lock();
  if (masks == nullptr) {
    TF_ASSIGN_OR_RETURN(ByteAutomaton automaton, DecodeAutomaton(grammar));
    masks = std::make_shared<TokenMasks>(std::move(automaton), *vocabulary_);
    known = masks;
  }
  std::erase_if(open_, [](const auto& entry) { return entry.second.expired(); });
  return masks;
}

}  // namespace tokenferry

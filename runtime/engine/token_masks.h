// Which tokens may come next in a text that an automaton describes.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "core/status.h"
#include "runtime/engine/byte_automaton.h"

namespace tokenferry {

// The tokens of a model as bytes, in an order in which neighbours share their beginnings. Immutable.
class Vocabulary {
 public:
  // `bytes` by token, empty where a token has none; `special` in increasing order.
  Vocabulary(std::vector<std::string> bytes, std::vector<int32_t> special);

  int64_t size() const { return static_cast<int64_t>(bytes_.size()); }
  const std::string& bytes(int32_t token) const { return bytes_[token]; }
  size_t max_bytes() const { return max_bytes_; }  // of a token
  bool IsSpecial(int32_t token) const;

 private:
  friend class TokenMasks;
  std::vector<std::string> bytes_;
  std::vector<int32_t> special_;
  // The tokens that have bytes, in the order of their bytes, which stand one after the other.
  struct Sorted {
    int32_t token;
    int32_t num_bytes;
    int32_t num_shared;  // how many first bytes are those of the one before
  };
  std::vector<Sorted> order_;
  std::string sorted_bytes_;
  size_t max_bytes_ = 0;
};

// The masks of one automaton, kept by position: the sequences that run it share them. Where a text is counted,
// positions differ that no token can tell apart, since the end is further away than any reaches: these share a mask,
// unless the automaton is so large that finding them would take longer than about 20 ms. It has at most 512 masks, of a
// bit for each token, and 4 MiB of tables, and makes again what it had to forget. Not thread-safe.
class TokenMasks {
 public:
  // `vocabulary` must outlive it.
  TokenMasks(ByteAutomaton automaton, const Vocabulary& vocabulary);

  const ByteAutomaton& automaton() const { return automaton_; }
  // Bit i of word i / 64: token i may come at `position`, as bytes. Valid until the next call. A mask that is not there
  // yet takes a walk over the vocabulary.
  absl::Span<const uint64_t> At(const AutomatonPosition& position);
  size_t num_masks() const { return masks_.size(); }
  // Takes a token. False: it may not come here, and neither may anything else now.
  bool Advance(int32_t token, AutomatonPosition& position) const;

 private:
  using Table = std::array<int32_t, 256>;  // the state behind each byte; kSlow where that takes the stack, or is none

  void FindAlike();
  std::vector<uint64_t> Compute(const AutomatonPosition& position);
  // Valid until the next call.
  const Table& TableOf(int32_t state);

  const ByteAutomaton automaton_;
  std::vector<std::unique_ptr<const Table>> tables_;  // by state; null: not needed yet
  size_t num_tables_ = 0;
  const Vocabulary& vocabulary_;
  std::vector<int32_t> alike_;  // by state: one that no token tells from it; empty: not known
  bool has_looked_ = false;     // for them
  absl::flat_hash_map<AutomatonPosition, std::vector<uint64_t>> masks_;
};

// A sequence's grammar, and where the sequence stands in it.
class GrammarRun {
 public:
  // `masks`: an error is one of the sequence, when its first token is wanted.
  explicit GrammarRun(absl::StatusOr<std::shared_ptr<TokenMasks>> masks) : masks_(std::move(masks)) {}

  void Take(int32_t token);
  // As TokenMasks::At, and those of `stop_tokens` where the text may end. Nothing at all where a token has come that
  // the grammar does not have.
  absl::StatusOr<absl::Span<const uint64_t>> Allowed(absl::Span<const int32_t> stop_tokens);

 private:
  absl::StatusOr<std::shared_ptr<TokenMasks>> masks_;
  AutomatonPosition position_;
  bool astray_ = false;
  std::vector<uint64_t> allowed_;
};

// What a rank's sequences with a grammar run.
class Grammars {
 public:
  // Before the first sequence; without it no sequence can have a grammar.
  void SetVocabulary(std::unique_ptr<const Vocabulary> vocabulary) { vocabulary_ = std::move(vocabulary); }

  // Of an encoded automaton; the same object as long as somebody holds it.
  absl::StatusOr<std::shared_ptr<TokenMasks>> Open(const std::string& grammar);

 private:
  std::unique_ptr<const Vocabulary> vocabulary_;
  std::map<std::string, std::weak_ptr<TokenMasks>> open_;
};

}  // namespace tokenferry

#include "runtime/engine/step_plan.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

namespace tokenferry {
namespace {

// One list of fields serves both directions: Fields(archive, value) names each field once.
class Writer {
 public:
  template <class T>
  void operator()(const T& value) {
    static_assert(std::has_unique_object_representations_v<T> || std::is_floating_point_v<T>);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  template <class T>
  void operator()(const std::vector<T>& values) {
    (*this)(static_cast<int64_t>(values.size()));
    if constexpr (std::is_arithmetic_v<T>) {
      bytes_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
    } else {
      for (const T& value : values) Fields(*this, const_cast<T&>(value));
    }
  }
  std::string Take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

class Reader {
 public:
  explicit Reader(absl::string_view bytes) : rest_(bytes) {}
  template <class T>
  void operator()(T& value) {
    static_assert(std::has_unique_object_representations_v<T> || std::is_floating_point_v<T>);
    if (!Has(sizeof(T))) return;
    std::memcpy(&value, rest_.data(), sizeof(T));
    rest_.remove_prefix(sizeof(T));
  }
  template <class T>
  void operator()(std::vector<T>& values) {
    int64_t size = 0;
    (*this)(size);
    // Every element takes at least one byte, so a size beyond the rest is nonsense.
    if (size < 0 || !Has(static_cast<size_t>(size))) {
      ok_ = false;
      return;
    }
    if constexpr (std::is_arithmetic_v<T>) {
      if (static_cast<size_t>(size) > rest_.size() / sizeof(T)) {
        ok_ = false;
        return;
      }
      values.resize(size);
      if (size) std::memcpy(values.data(), rest_.data(), size * sizeof(T));
      rest_.remove_prefix(size * sizeof(T));
    } else {
      for (int64_t i = 0; ok_ && i < size; ++i) Fields(*this, values.emplace_back());
    }
  }
  bool complete() const { return ok_ && rest_.empty(); }

 private:
  bool Has(size_t num_bytes) {
    if (rest_.size() < num_bytes) ok_ = false;
    return ok_;
  }
  absl::string_view rest_;
  bool ok_ = true;
};

// Field by field: a struct's padding would travel as whatever it happens to be.
template <class Archive>
void Fields(Archive& a, SamplingParams& p) {
  a(p.temperature), a(p.top_k), a(p.top_p), a(p.min_p), a(p.repetition_penalty), a(p.presence_penalty), a(p.seed);
}
template <class Archive>
void Fields(Archive& a, NewSequence& s) {
  a(s.seq), a(s.rank.value), a(s.blocks), a(s.num_prompt_tokens);
  Fields(a, s.sampling);
}
template <class Archive>
void Fields(Archive& a, StepEntry& e) {
  a(e.seq), a(e.rank.value), a(e.position), a(e.tokens), a(e.want), a(e.targets);
}
template <class Archive>
void Fields(Archive& a, StepPlan& p) {
  a(p.stop), a(p.started), a(p.entries), a(p.released);
}
template <class Archive>
void Fields(Archive& a, EntryResult& r) {
  a(r.seq), a(r.sampled.token), a(r.sampled.logprob), a(r.logprobs), a(r.logits), a(r.expert_idx), a(r.expert_weight);
}

}  // namespace

int64_t StepPlan::num_tokens(RankId rank) const {
  int64_t sum = 0;
  for (const StepEntry& e : entries) sum += e.rank == rank ? static_cast<int64_t>(e.tokens.size()) : 0;
  return sum;
}

int64_t StepPlan::num_tokens() const {
  int64_t sum = 0;
  for (const StepEntry& e : entries) sum += static_cast<int64_t>(e.tokens.size());
  return sum;
}

int64_t StepPlan::max_tokens_per_rank(int num_ranks) const {
  std::vector<int64_t> tokens(num_ranks);
  for (const StepEntry& e : entries) tokens[e.rank.value] += static_cast<int64_t>(e.tokens.size());
  return *std::max_element(tokens.begin(), tokens.end());
}

std::string Encode(const StepPlan& plan) {
  Writer writer;
  Fields(writer, const_cast<StepPlan&>(plan));
  return writer.Take();
}

absl::StatusOr<StepPlan> DecodeStepPlan(absl::string_view bytes) {
  StepPlan plan;
  Reader reader(bytes);
  Fields(reader, plan);
  if (!reader.complete())
    return absl::DataLossError(absl::StrCat("step plan of ", bytes.size(), " bytes does not decode"));
  return plan;
}

std::string Encode(const std::vector<EntryResult>& results) {
  Writer writer;
  writer(results);
  return writer.Take();
}

absl::StatusOr<std::vector<EntryResult>> DecodeResults(absl::string_view bytes) {
  std::vector<EntryResult> results;
  Reader reader(bytes);
  reader(results);
  if (!reader.complete())
    return absl::DataLossError(absl::StrCat("step results of ", bytes.size(), " bytes do not decode"));
  return results;
}

}  // namespace tokenferry

// What the choice of a token needs of a row of logits, a few numbers instead of the vocabulary: so that the logits of a
// GPU need not travel to the host.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "core/device/device.h"
#include "core/formats/tensor.h"

namespace tokenferry {

// Sums over a vocabulary are made in one order everywhere: value i belongs to chain i % kSumChains, each chain is added
// up by rising i, and then the second half of the chains is added to the first, until one is left. The chains are the
// threads of a block; on a CPU, vectors add neighbouring chains.
inline constexpr int kSumChains = 1024;
double SumInChains(absl::Span<const double> values);

struct LogitCandidate {
  int32_t token = -1;
  float logit = 0;
};
inline constexpr int kMaxLogitCandidates = 64;

struct LogitSummary {
  // SumInChains of exp(logit - largest), each by ExpNotPositive (exp_f64.h) of the difference in double.
  double sum_exp = 0;
  float largest = 0;       // of the row; of a bad row the logit of bad_token
  int32_t bad_token = -1;  // the lowest whose logit is NaN or +infinity: nothing else is said of the row; -1: none
  int32_t num_candidates = 0;
  int32_t reserved = 0;
  LogitCandidate candidates[kMaxLogitCandidates];  // the likeliest by falling logit, ties to the lower token
};

// Row t's summary with min(num_candidates[t], vocabulary) candidates; what lies behind those is not written. Nothing at
// all is for a row with num_candidates[t] = 0, nor is its memory read.
struct ScanLogitsArgs {
  MatrixView<const float> logits;           // [n, V], V >= 1
  const int32_t* num_candidates = nullptr;  // [n], 0 to kMaxLogitCandidates
  LogitSummary* out = nullptr;              // [n]
};
void ScanLogits(Stream& stream, const ScanLogitsArgs& args);

}  // namespace tokenferry

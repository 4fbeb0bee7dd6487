#include "runtime/ops/scan_logits.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "core/check.h"
#include "core/device/cuda_launcher.h"
#include "runtime/ops/exp_f64.h"

namespace tokenferry {
namespace {

void ScanRow(const ScanLogitsArgs& a, int64_t t) {
  if (a.num_candidates[t] == 0) return;
  const absl::Span<const float> logits(a.logits.row(t), a.logits.cols);
  LogitSummary& out = a.out[t];
  const auto bad = std::find_if(logits.begin(), logits.end(), [](float x) { return !(x < INFINITY); });
  out.bad_token = bad == logits.end() ? -1 : static_cast<int32_t>(bad - logits.begin());
  out.num_candidates = 0;
  if (bad != logits.end()) {
    out.largest = *bad;
    return;
  }
  out.num_candidates = std::min(a.num_candidates[t], static_cast<int32_t>(logits.size()));
  std::vector<LogitCandidate> all(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) all[i] = {static_cast<int32_t>(i), logits[i]};
  std::partial_sort(all.begin(), all.begin() + out.num_candidates, all.end(),
                    [](const LogitCandidate& x, const LogitCandidate& y) {
                      return x.logit > y.logit || (x.logit == y.logit && x.token < y.token);
                    });
  std::copy_n(all.begin(), out.num_candidates, out.candidates);
  out.largest = all[0].logit;
  std::vector<double> relative(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    relative[i] = ExpNotPositive(static_cast<double>(logits[i]) - static_cast<double>(out.largest));
  }
  out.sum_exp = SumInChains(relative);
}

void ScanLogitsReference(const ScanLogitsArgs& a) {
  for (int64_t t = 0; t < a.logits.rows; ++t) ScanRow(a, t);
}

}  // namespace

double SumInChains(absl::Span<const double> values) {
  std::array<double, kSumChains> chains = {};
  for (size_t begin = 0; begin < values.size(); begin += kSumChains) {
    const double* block = values.data() + begin;
    const size_t n = std::min<size_t>(kSumChains, values.size() - begin);
    for (size_t c = 0; c < n; ++c) chains[c] += block[c];
  }
  for (int width = kSumChains / 2; width > 0; width /= 2) {
    for (int c = 0; c < width; ++c) chains[c] += chains[c + width];
  }
  return chains[0];
}

absl::Status CudaScanLogits(const ScanLogitsArgs& args, void* stream);  // scan_logits.cu

// The sampler of the CPU reads logits where they lie (runtime/engine/sampler.h): it needs no kernel of its own here.
constexpr Op<ScanLogitsArgs> kScanLogits{"scan_logits", &ScanLogitsReference, nullptr,
                                         TF_CUDA_LAUNCHER(CudaScanLogits)};

void ScanLogits(Stream& stream, const ScanLogitsArgs& args) {
  TF_CHECK_GE(args.logits.cols, 1);
  stream.Launch(kScanLogits, args);
}

}  // namespace tokenferry

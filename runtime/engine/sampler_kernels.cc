#include "runtime/engine/sampler_kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/kernels/simd_targets.h"
#include "runtime/ops/exp_f64.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "runtime/engine/sampler_kernels.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#ifndef TOKENFERRY_RUNTIME_ENGINE_SAMPLER_KERNELS_ONCE_
#define TOKENFERRY_RUNTIME_ENGINE_SAMPLER_KERNELS_ONCE_
namespace tokenferry {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Part of its callers: GCC 12 leaves the upper halves of vector registers dirty when a kernel ends by jumping to a
// function that does not use them, and all scalar code that follows then takes twice as long.
HWY_INLINE LogitScan WidenRest(const float* logits, int64_t begin, int64_t end, double* scores, LogitScan scan) {
  for (int64_t i = begin; i < end; ++i) {
    scores[i] = logits[i];
    scan.all_below_infinity &= scores[i] < kInfinity;
    scan.largest = std::max(scan.largest, scores[i]);
  }
  return scan;
}

HWY_INLINE void ExpRest(const double* scores, int64_t begin, int64_t end, double largest, double temperature,
                        double* weights) {
  for (int64_t i = begin; i < end; ++i) weights[i] = ExpNotPositive((scores[i] - largest) / temperature);
}

}  // namespace
}  // namespace tokenferry
#endif

HWY_BEFORE_NAMESPACE();
namespace tokenferry {
#if TF_SIMD_TARGET
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using F64Tag = hn::ScalableTag<double>;
using F64Vec = hn::Vec<F64Tag>;
using F32HalfTag = hn::Rebind<float, F64Tag>;

LogitScan Widen(const float* logits, int64_t size, double* scores) {
  const F64Tag d;
  const auto num_lanes = static_cast<int64_t>(hn::Lanes(d));
  const F64Vec infinity = hn::Set(d, kInfinity);
  F64Vec largest = hn::Neg(infinity);
  auto below = hn::Lt(largest, infinity);
  int64_t i = 0;
  for (; i + num_lanes <= size; i += num_lanes) {
    const F64Vec wide = hn::PromoteTo(d, hn::LoadU(F32HalfTag(), logits + i));
    hn::StoreU(wide, d, scores + i);
    below = hn::And(below, hn::Lt(wide, infinity));
    largest = hn::Max(largest, wide);
  }
  const LogitScan scan{hn::GetLane(hn::MaxOfLanes(d, largest)), hn::AllTrue(d, below)};
  return WidenRest(logits, i, size, scores, scan);
}

double Largest(const double* scores, int64_t size) {
  const F64Tag d;
  const auto num_lanes = static_cast<int64_t>(hn::Lanes(d));
  F64Vec largest = hn::Set(d, scores[0]);
  int64_t i = 0;
  for (; i + num_lanes <= size; i += num_lanes) largest = hn::Max(largest, hn::LoadU(d, scores + i));
  return std::max(hn::GetLane(hn::MaxOfLanes(d, largest)),
                  *std::max_element(scores + std::min(i, size - 1), scores + size));
}

void ExpScores(const double* scores, int64_t size, double largest, double temperature, double* weights) {
  using namespace exp_f64_internal;
  const F64Tag d;
  const hn::RebindToSigned<F64Tag> di;
  const auto num_lanes = static_cast<int64_t>(hn::Lanes(d));
  const F64Vec shift = hn::Set(d, kRoundShift), top = hn::Set(d, largest), divisor = hn::Set(d, temperature);
  int64_t i = 0;
  for (; i + num_lanes <= size; i += num_lanes) {
    const F64Vec x = hn::Div(hn::Sub(hn::LoadU(d, scores + i), top), divisor);
    const F64Vec shifted = hn::Add(hn::Mul(x, hn::Set(d, kLog2e)), shift);
    const F64Vec n = hn::Sub(shifted, shift);
    const F64Vec r = hn::Sub(hn::Sub(x, hn::Mul(n, hn::Set(d, kLn2High))), hn::Mul(n, hn::Set(d, kLn2Low)));
    F64Vec q = hn::Set(d, Taylor(0));
    for (int k = 1; k < kNumTaylor; ++k) q = hn::Add(hn::Mul(q, r), hn::Set(d, Taylor(k)));
    const auto exponent = hn::Sub(hn::BitCast(di, shifted), hn::BitCast(di, shift));
    const F64Vec power = hn::BitCast(d, hn::ShiftLeft<52>(hn::Add(exponent, hn::Set(di, 1023))));
    const F64Vec y = hn::Mul(q, power);
    hn::StoreU(hn::IfThenElse(hn::Lt(x, hn::Set(d, kUnderflow)), hn::Zero(d), y), d, weights + i);
  }
  ExpRest(scores, i, size, largest, temperature, weights);
}

}  // namespace

const SamplerKernels& VectorSamplerKernels() {
  static constexpr SamplerKernels kKernels{&Widen, &Largest, &ExpScores};
  return kKernels;
}

}  // namespace HWY_NAMESPACE
#endif
}  // namespace tokenferry
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tokenferry {
namespace {

LogitScan PortableWiden(const float* logits, int64_t size, double* scores) {
  return WidenRest(logits, 0, size, scores, {-kInfinity, true});
}

double PortableLargest(const double* scores, int64_t size) { return *std::max_element(scores, scores + size); }

void PortableExpScores(const double* scores, int64_t size, double largest, double temperature, double* weights) {
  ExpRest(scores, 0, size, largest, temperature, weights);
}

constexpr SamplerKernels kPortable{&PortableWiden, &PortableLargest, &PortableExpScores};

}  // namespace

const SamplerKernels& SamplerKernelsFor(Isa isa) { return TF_SIMD_CHOOSE(isa, VectorSamplerKernels(), kPortable); }

}  // namespace tokenferry
#endif

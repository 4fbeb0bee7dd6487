#include <algorithm>
#include <numeric>

#include "runtime/attention/gated_delta.h"
#include "tests/support/cuda_compare.h"

namespace tokenferry {
namespace {

// Rows of a step: runs of so many tokens, 0 for a row without a token.
using Runs = std::vector<int64_t>;

struct DeltaCudaCase {
  DeltaShape shape;
  int num_seeds;
};
// Heads and columns that fill no warp, a warp and some, and Qwen3-Next's.
const std::vector<DeltaCudaCase> kDeltaCudaCases = {
    {{.num_key_heads = 1, .num_value_heads = 1, .key_dim = 5, .value_dim = 3, .conv_size = 1}, 10},
    {{.num_key_heads = 2, .num_value_heads = 4, .key_dim = 16, .value_dim = 20, .conv_size = 4}, 10},
    {{.num_key_heads = 2, .num_value_heads = 2, .key_dim = 33, .value_dim = 41, .conv_size = 3}, 10},
    {{.num_key_heads = 1, .num_value_heads = 2, .key_dim = 128, .value_dim = 128, .conv_size = 4}, 1}};
// A prompt in one piece is longer than the 32 tokens whose gates are computed at once; a step of a graph has rows
// behind the last token.
const std::vector<Runs> kDeltaCudaRuns = {{}, {1}, {0, 0}, {1, 1, 1, 0}, {2, 0, 34}};

// Half of the sequences begin here. Slots are those of more sequences than the step has, in any order.
void DeltaCase(OpRun& run, const DeltaShape& s, const Runs& runs, bool grouped) {
  std::vector<int32_t> seq, position, slots(runs.size() + 2);
  for (size_t i = 0; i < runs.size(); ++i) {
    const int32_t first = run.rng()() % 2 == 0 ? 0 : 1 + static_cast<int32_t>(run.rng()() % 3);
    for (int64_t t = 0; t < std::max<int64_t>(runs[i], 1); ++t) {
      seq.push_back(runs[i] == 0 ? 0 : static_cast<int32_t>(i));
      position.push_back(runs[i] == 0 ? -1 : first + static_cast<int32_t>(t));
    }
  }
  std::iota(slots.begin(), slots.end(), 0);
  std::shuffle(slots.begin(), slots.end(), run.rng());
  const auto num_tokens = static_cast<int64_t>(seq.size());
  const TokenPositions tokens{run.Input(seq), run.Input(position), num_tokens};
  const auto num_states = static_cast<int64_t>(slots.size());
  const StateView state{run.InOut("state", NormalFloats(run.rng(), num_states * s.state_size(), 0.1f)), s.state_size(),
                        run.Input(slots)};
  const int64_t r = s.values_per_key(), values = r * s.value_dim, keys = s.num_key_heads * s.key_dim;
  const int64_t group = 2 * s.key_dim + 2 * values + 2 * r, stride = s.num_key_heads * group + 3;
  const float* rows = run.Input(NormalFloats(run.rng(), num_tokens * stride));
  // Where a part stands by itself, and within a group.
  const auto part = [&](int64_t apart, int64_t size, int64_t within) {
    return grouped ? HeadGroups{rows + within, stride, group} : HeadGroups{rows + apart, stride, size};
  };
  const int64_t z = s.num_channels(), b = z + s.values_size();
  DeltaInputsArgs inputs;
  inputs.q = part(0, s.key_dim, 0);
  inputs.k = part(keys, s.key_dim, s.key_dim);
  inputs.v = part(2 * keys, values, 2 * s.key_dim);
  inputs.weight = run.Input(NormalFloats(run.rng(), s.conv_size * s.num_channels(), 0.5f));
  inputs.shape = s;
  inputs.tokens = tokens;
  inputs.state = state;
  inputs.out = run.Output<float>("inputs", num_tokens * s.num_channels());
  DeltaInputs(run.stream(), inputs);
  GatedDeltaArgs args;
  args.qkv = inputs.out;
  args.z = part(z, values, 2 * s.key_dim + values);
  args.b = part(b, r, 2 * s.key_dim + 2 * values);
  args.a = part(b + s.num_value_heads, r, 2 * s.key_dim + 2 * values + r);
  args.a_log = run.Input(NormalFloats(run.rng(), s.num_value_heads));
  args.dt_bias = run.Input(NormalFloats(run.rng(), s.num_value_heads, 10));  // some beyond the bend of softplus
  args.norm = run.Input(NormalFloats(run.rng(), s.value_dim));
  args.shape = s;
  args.tokens = tokens;
  args.state = state;
  args.out = run.Output<float>("out", num_tokens * s.values_size());
  GatedDelta(run.stream(), args);
}

class GatedDeltaCudaTest : public CudaCompareTest {};

TEST_F(GatedDeltaCudaTest, StepsAndStates) {
  for (const DeltaCudaCase& c : kDeltaCudaCases) {
    for (size_t i = 0; i < kDeltaCudaRuns.size(); ++i) {
      SCOPED_TRACE(testing::Message() << "heads of " << c.shape.key_dim << " x " << c.shape.value_dim << ", runs "
                                      << i);
      ExpectSameBits([&](OpRun& run) { DeltaCase(run, c.shape, kDeltaCudaRuns[i], run.rng()() % 2 == 0); },
                     c.num_seeds);
    }
  }
}

}  // namespace
}  // namespace tokenferry

#include "experts/ffn/count_rows.h"

namespace tokenferry {
namespace {

void Count(const CountRowsArgs& a) {
  for (int64_t s = 0; s < a.num_slots; ++s) a.counts[s] += a.slot_offsets[s + 1] - a.slot_offsets[s];
}
constexpr Op<CountRowsArgs> kCountRows = {"count_rows", Count, [](const CountRowsArgs& a, CpuContext&) { Count(a); }};

}  // namespace

void CountRows(Stream& stream, const CountRowsArgs& args) { stream.Launch(kCountRows, args); }

}  // namespace tokenferry

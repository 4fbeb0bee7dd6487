// Small runs of bench alltoall and bench moe on a group of ranks, with what their reports must say.
#pragma once

#include "bench/alltoall/alltoall_bench.h"

namespace tokenferry {

// Every traffic, both dtypes, several shapes: results verified (or it is an error), counts add up, JSON complete.
void RunSmallAllToAllBench(Transport& transport);
// Enough bf16 results that roundings of every size occur in what the baselines are checked against.
void RunWideAllToAllBench(Transport& transport);
void RunSmallMoeBench(Transport& transport);

}  // namespace tokenferry

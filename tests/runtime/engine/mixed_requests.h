// Requests as a server meets them: many with beginnings in common, of all lengths, sampled in all ways.
#pragma once

#include <vector>

#include "runtime/engine/request.h"

namespace tokenferry {

inline constexpr unsigned kMixedRequestsSeed = 20261128;

// The first `count` of a fixed row; each needs at most 256 tokens of cache.
std::vector<Request> MixedRequests(int count);

}  // namespace tokenferry

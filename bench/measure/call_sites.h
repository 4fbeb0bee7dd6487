// Where ranks meet and agree outside the code that is measured, as errors name it.
#pragma once

#include "comm/wait/call_site.h"

namespace tokenferry {

inline constexpr CallSite kMeet{.phase = "bench: meet"};
inline constexpr CallSite kAgree{.phase = "bench: agree"};

}  // namespace tokenferry

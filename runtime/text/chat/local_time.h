// The hour, for templates that tell a model the date.
#pragma once

#include "absl/time/civil_time.h"

namespace tokenferry {

absl::CivilSecond LocalNow();  // of the host's wall clock, in its time zone

}  // namespace tokenferry

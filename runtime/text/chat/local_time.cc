#include "runtime/text/chat/local_time.h"

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace tokenferry {

absl::CivilSecond LocalNow() { return absl::ToCivilSecond(absl::Now(), absl::LocalTimeZone()); }

}  // namespace tokenferry

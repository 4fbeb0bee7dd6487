#include "runtime/serve/front/wall_clock.h"

#include <ctime>

namespace tokenferry {

int64_t SecondsSince1970() { return static_cast<int64_t>(std::time(nullptr)); }

}  // namespace tokenferry

// What a benchmark result was measured on.
#pragma once

#include <string>

namespace tokenferry {

// One line: processor, CPUs that this machine (or container) has, memory, kernel. For people; never parsed.
std::string MachineDescription();

}  // namespace tokenferry

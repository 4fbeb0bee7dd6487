// Where a benchmark's figures were measured, as its JSON tells it.
#pragma once

#include <nlohmann/json.hpp>

namespace tokenferry {

template <class Report>
nlohmann::ordered_json MachineJson(const Report& r) {
  return {{"description", r.machine},
          {"topology", r.topology},
          {"ranks", r.num_ranks},
          {"threads_per_rank", r.num_threads},
          {"device", r.device},
          {"instruction_set", r.instruction_set},
          {"two_core_ratio", {{"before", r.core_ratio_before}, {"after", r.core_ratio_after}}}};
}

}  // namespace tokenferry

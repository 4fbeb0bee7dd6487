#include "comm/wait/call_site.h"

namespace tokenferry {

std::string ToString(const CallSite& site) {
  std::string out;
  if (site.layer >= 0) absl::StrAppend(&out, "layer ", site.layer, ", ");
  absl::StrAppend(&out, site.phase);
  if (site.step >= 0) absl::StrAppend(&out, ", step ", site.step);
  return out;
}

}  // namespace tokenferry

#include "comm/exchange/path/paths.h"

#include <algorithm>
#include <iterator>

#include "comm/exchange/path/path.h"
#include "core/check.h"

namespace tokenferry {

const PathInfo& InfoOf(ExchangePath path) {
  const auto* const found = std::find_if(std::begin(kExchangePaths), std::end(kExchangePaths),
                                         [path](const PathInfo* info) { return info->path == path; });
  TF_CHECK(found != std::end(kExchangePaths));
  return **found;
}

const char* ExchangePathName(ExchangePath path) {
  for (const PathName& entry : kPathNames) {
    if (entry.path == path) return entry.name;
  }
  return "?";
}

}  // namespace tokenferry

#include "core/check.h"

namespace tokenferry::internal {

void CheckFailed(const char* file, int line, const char* expr, const std::string& detail) {
  std::fprintf(stderr, "tokenferry: broken invariant at %s:%d: %s%s%s%s\n", file, line, expr,
               detail.empty() ? "" : " (", detail.c_str(), detail.empty() ? "" : ")");
  std::fflush(stderr);
  std::abort();
}

}  // namespace tokenferry::internal

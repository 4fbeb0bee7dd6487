// The page of GET /dashboard.
#pragma once

#include "absl/strings/string_view.h"

namespace tokenferry {

// dashboard.html with its style and scripts in it, put together by the build (cmake/embed_page.cmake). It loads nothing
// but /health, /metrics, /v1/experts, /version and /v1/models of its own server. Lives as long as the program.
absl::string_view DashboardPage();

}  // namespace tokenferry

// EXPECT_ERROR(expr, code, "piece", "another piece"): expr is an error of that code whose message has all pieces.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "core/status.h"

namespace tokenferry::testing {

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
constexpr auto kDataLoss = absl::StatusCode::kDataLoss;

inline const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <class T>
const absl::Status& StatusOf(const absl::StatusOr<T>& result) {
  return result.status();
}

inline ::testing::AssertionResult IsError(const absl::Status& status, absl::StatusCode code,
                                          const std::vector<std::string>& pieces) {
  if (status.code() != code) {
    return ::testing::AssertionFailure() << "status is " << status << ", expected code "
                                         << absl::StatusCodeToString(code);
  }
  for (const std::string& piece : pieces) {
    if (!absl::StrContains(status.message(), piece)) {
      return ::testing::AssertionFailure() << "'" << piece << "' is not in: " << status.message();
    }
  }
  if (absl::StrContains(status.message(), "\n")) {
    return ::testing::AssertionFailure() << "more than one line: " << status.message();
  }
  return ::testing::AssertionSuccess();
}

}  // namespace tokenferry::testing

#define EXPECT_ERROR(expr, error_code, ...)                                                     \
  EXPECT_TRUE(::tokenferry::testing::IsError(::tokenferry::testing::StatusOf(expr), error_code, \
                                             std::vector<std::string>{__VA_ARGS__}))
#define ASSERT_OK(expr)                                                        \
  do {                                                                         \
    const absl::Status tf_test_status = ::tokenferry::testing::StatusOf(expr); \
    ASSERT_TRUE(tf_test_status.ok()) << tf_test_status;                        \
  } while (false)

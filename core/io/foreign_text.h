// Bytes from outside in error messages.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "core/status.h"

namespace tokenferry {

// A part of untrusted text fit for a one-line message: at most 120 bytes, control characters and non-ASCII escaped.
std::string Excerpt(absl::string_view text);

// What a file is that is not what its name says, from its first bytes, and what to do about it: "a Git LFS pointer;
// ..". Empty: none of the kinds that are often found in place of a model's files.
absl::string_view ForeignKind(absl::string_view first_bytes);
inline constexpr int64_t kForeignKindBytes = 64;  // so many first bytes are enough
// InvalidArgument, "PATH: is a Git LFS pointer; ..", when it is of such a kind.
absl::Status CheckNotForeign(absl::string_view path, absl::string_view first_bytes);

}  // namespace tokenferry

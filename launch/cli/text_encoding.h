// Which encoding the bytes of a text file are in.
#pragma once

#include "absl/strings/string_view.h"

namespace tokenferry {

// "UTF-16LE", "UTF-32", .., as iconv calls it, if `text` is in such an encoding, by its byte-order mark or, without
// one, by what its bytes look like; else empty. UTF-8 with some NULs in it is UTF-8.
absl::string_view WideEncoding(absl::string_view text);

}  // namespace tokenferry

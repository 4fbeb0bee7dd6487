// Text files that flags name. Errors name the flag, the file and the reason.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "core/status.h"

namespace tokenferry {

// The bytes of a file, a pipe, or, for the path "-", stdin. InvalidArgument for a text in UTF-16 or UTF-32, with or
// without a byte-order mark: nothing here would find a word in it. ResourceExhausted beyond `max_bytes`.
absl::StatusOr<std::string> ReadFlagFile(absl::string_view flag, const std::string& path,
                                         int64_t max_bytes = int64_t{1} << 30);

// A file that appears whole or not at all: its text goes to PATH.partial, which is renamed. A path that is a pipe or a
// device (/dev/stdout) is written to directly.
class TextFileWriter {
 public:
  // Fails when the file cannot be written, before the work whose result it is to take.
  static absl::StatusOr<std::unique_ptr<TextFileWriter>> Create(absl::string_view flag, const std::string& path);
  // Removes the partial file unless committed.
  ~TextFileWriter();

  // Once.
  absl::Status Commit(absl::string_view text);

 private:
  TextFileWriter() = default;
  absl::Status Error() const;  // with errno's text

  std::string flag_, path_;
  std::string partial_path_;  // empty: `path_` is written to directly
  int fd_ = -1;
};

}  // namespace tokenferry

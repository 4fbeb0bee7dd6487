// Text files that flags name. Errors name the flag, the file and the reason.
#pragma once

#include <memory>
#include <string>

#include "core/status.h"

namespace tokenferry {

absl::StatusOr<std::string> ReadTextFile(absl::string_view flag, const std::string& path);

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

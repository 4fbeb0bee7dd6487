#include "launch/cli/text_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "launch/cli/text_encoding.h"

namespace tokenferry {
namespace {

absl::Status FileError(absl::string_view flag, const std::string& path, absl::string_view what) {
  const int error = errno;
  return absl::UnavailableError(absl::StrCat(flag, " '", path, "': ", what, ": ", std::strerror(error)));
}

}  // namespace

absl::StatusOr<std::string> ReadFlagFile(absl::string_view flag, const std::string& path, int64_t max_bytes) {
  const bool is_stdin = path == "-";
  const int fd = is_stdin ? STDIN_FILENO : open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return FileError(flag, path, "cannot be read");
  std::string text;
  char piece[1 << 16];
  ssize_t n = 0;
  do {
    n = read(fd, piece, sizeof(piece));
    if (n > 0) text.append(piece, static_cast<size_t>(n));
  } while (static_cast<int64_t>(text.size()) <= max_bytes && (n > 0 || (n < 0 && errno == EINTR)));
  const absl::Status status = n < 0 ? FileError(flag, path, "cannot be read") : absl::OkStatus();
  if (!is_stdin) close(fd);
  TF_RETURN_IF_ERROR(status);
  if (static_cast<int64_t>(text.size()) > max_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(flag, " '", path, "': is longer than ", max_bytes, " bytes, the most that is read"));
  }
  if (const absl::string_view encoding = WideEncoding(text); !encoding.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(flag, " '", path, "': is text in ", encoding,
                                                   ", but must be in UTF-8; convert it, as with `iconv -f ", encoding,
                                                   " -t UTF-8`"));
  }
  return text;
}

absl::Status TextFileWriter::Error() const { return FileError(flag_, path_, "cannot be written"); }

absl::StatusOr<std::unique_ptr<TextFileWriter>> TextFileWriter::Create(absl::string_view flag,
                                                                       const std::string& path) {
  std::unique_ptr<TextFileWriter> writer(new TextFileWriter);
  writer->flag_ = std::string(flag);
  writer->path_ = path;
  struct stat info = {};
  const bool is_special = stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode);
  if (!is_special) writer->partial_path_ = path + ".partial";
  const std::string& opened = is_special ? path : writer->partial_path_;
  writer->fd_ = open(opened.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (writer->fd_ < 0) return writer->Error();
  return writer;
}

TextFileWriter::~TextFileWriter() {
  if (fd_ < 0) return;
  close(fd_);
  if (!partial_path_.empty()) unlink(partial_path_.c_str());
}

absl::Status TextFileWriter::Commit(absl::string_view text) {
  while (!text.empty()) {
    const ssize_t n = write(fd_, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Error();
    text.remove_prefix(static_cast<size_t>(n));
  }
  if (!partial_path_.empty() && std::rename(partial_path_.c_str(), path_.c_str()) != 0) return Error();
  if (close(std::exchange(fd_, -1)) != 0) return Error();
  return absl::OkStatus();
}

}  // namespace tokenferry

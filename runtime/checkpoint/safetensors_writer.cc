#include "runtime/checkpoint/safetensors_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/check.h"

namespace tokenferry {

absl::Status SafetensorsWriter::Error(const char* what) const {
  return absl::UnavailableError(absl::StrCat(path_, ": ", what, ": ", std::strerror(errno)));
}

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(const std::string& path,
                                                                             std::vector<Spec> specs) {
  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter);
  writer->path_ = path;
  struct stat info = {};
  if (stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is ", S_ISDIR(info.st_mode) ? "a directory" : "a device or pipe", ", not a file"));
  }
  writer->partial_path_ = path + ".partial";
  nlohmann::ordered_json header;
  std::vector<int64_t> offsets = {0};
  for (const Spec& spec : specs) {
    int64_t num_bytes = DTypeBytes(spec.dtype);
    for (int64_t n : spec.shape) num_bytes *= n;
    TF_CHECK(!header.contains(spec.name));
    header[spec.name] = {{"dtype", std::string(DTypeName(spec.dtype))},
                         {"shape", spec.shape},
                         {"data_offsets", {offsets.back(), offsets.back() + num_bytes}}};
    offsets.push_back(offsets.back() + num_bytes);
  }
  std::string text = header.is_null() ? "{}" : header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');  // the format pads with spaces so that the data is aligned
  const uint64_t header_bytes = text.size();
  std::string head(reinterpret_cast<const char*>(&header_bytes), sizeof(header_bytes));
  head += text;
  for (int64_t& offset : offsets) offset += static_cast<int64_t>(head.size());
  writer->tensor_offsets_ = std::move(offsets);

  writer->fd_ = open(writer->partial_path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (writer->fd_ < 0) return writer->Error("cannot be written");
  if (const int e = posix_fallocate(writer->fd_, 0, writer->tensor_offsets_.back()); e != 0) {
    errno = e;
    return writer->Error(absl::StrCat("no room for ", writer->tensor_offsets_.back(), " bytes").c_str());
  }
  if (pwrite(writer->fd_, head.data(), head.size(), 0) != static_cast<ssize_t>(head.size()))
    return writer->Error("write failed");
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(partial_path_.c_str());
}

absl::Status SafetensorsWriter::Write(size_t tensor_idx, int64_t offset, const void* data, int64_t num_bytes) {
  TF_CHECK_LE(tensor_offsets_[tensor_idx] + offset + num_bytes, tensor_offsets_[tensor_idx + 1]);
  const char* from = static_cast<const char*>(data);
  int64_t at = tensor_offsets_[tensor_idx] + offset;
  while (num_bytes > 0) {
    const ssize_t n = pwrite(fd_, from, num_bytes, at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return Error("write failed");
    from += n, at += n, num_bytes -= n;
  }
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Commit() {
  if (fsync(fd_) != 0) return Error("cannot be flushed");
  const int fd = std::exchange(fd_, -1);
  if (close(fd) != 0 || std::rename(partial_path_.c_str(), path_.c_str()) != 0) {
    const absl::Status status = Error("cannot be put in place");
    unlink(partial_path_.c_str());
    return status;
  }
  return absl::OkStatus();
}

}  // namespace tokenferry

// The input is a whole safetensors file. Whatever is accepted must be readable to the last byte.
#include <sys/mman.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "core/check.h"
#include "runtime/checkpoint/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tokenferry;
  const int fd = memfd_create("input", MFD_CLOEXEC);
  TF_CHECK(fd >= 0);
  TF_CHECK(write(fd, data, size) == static_cast<ssize_t>(size));
  {
    const auto file = SafetensorsFile::Open(absl::StrCat("/proc/self/fd/", fd));
    if (!file.ok()) {
      TF_CHECK(file.status().message().size() < 2000);
      TF_CHECK(file.status().message().find('\n') == absl::string_view::npos);
    } else {
      int64_t covered = (*file)->bytes_read();  // length and header
      for (const TensorInfo& tensor : (*file)->tensors()) {
        TF_CHECK((*file)->Find(tensor.name) == &tensor);
        std::vector<uint8_t> bytes(static_cast<size_t>(tensor.num_bytes));
        TF_CHECK((*file)->Read(tensor, 0, absl::MakeSpan(bytes)).ok());
        covered += tensor.num_bytes;
      }
      TF_CHECK_EQ(covered, static_cast<int64_t>(size));
    }
  }
  close(fd);
  return 0;
}

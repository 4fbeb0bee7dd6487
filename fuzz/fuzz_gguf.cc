// The input is a whole GGUF file. Tensors of what is accepted lie in the file and apart from each other; a tokenizer is
// read or refused.
#include <sys/mman.h>
#include <unistd.h>

#include "core/check.h"
#include "core/io/gguf.h"
#include "runtime/text/gguf_tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tokenferry;
  const int fd = memfd_create("input", MFD_CLOEXEC);
  TF_CHECK(fd >= 0);
  TF_CHECK(write(fd, data, size) == static_cast<ssize_t>(size));
  {
    const auto file = RangeFile::Open(absl::StrCat("/proc/self/fd/", fd));
    TF_CHECK(file.ok());
    const auto header = ReadGgufHeader(**file);
    if (!header.ok()) {
      TF_CHECK(header.status().message().size() < 2000);
      TF_CHECK(header.status().message().find('\n') == absl::string_view::npos);
    } else {
      int64_t end = 0;
      for (const GgufTensor& tensor : header->tensors) {
        if (tensor.num_bytes == 0) continue;
        TF_CHECK(tensor.begin >= end);
        end = tensor.begin + tensor.num_bytes;
      }
      TF_CHECK(end <= static_cast<int64_t>(size));
      GgufShards("m.gguf", header->metadata.root()).IgnoreError();
      TokenizerJsonOfGguf(header->metadata.root(), "m.gguf").IgnoreError();
      TokenizerConfigOfGguf(header->metadata.root(), "m.gguf").IgnoreError();
    }
  }
  close(fd);
  return 0;
}

#include "runtime/checkpoint/gguf_file.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/io/gguf.h"

namespace tokenferry {

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(const std::string& path) {
  TF_ASSIGN_OR_RETURN(auto file, RangeFile::Open(path));
  TF_ASSIGN_OR_RETURN(GgufHeader header, ReadGgufHeader(*file));
  const auto num_unread =
      std::count_if(header.tensors.begin(), header.tensors.end(), [](const GgufTensor& t) { return !t.dtype; });
  std::vector<TensorInfo> tensors;
  for (GgufTensor& t : header.tensors) {
    TensorInfo info{.name = std::move(t.name), .shape = std::move(t.shape), .begin = t.begin, .num_bytes = t.num_bytes};
    info.problem = std::move(t.problem);
    if (t.dtype) {
      info.dtype = *t.dtype;
    } else if (info.problem.empty()) {
      info.problem = absl::StrCat("has the type ", t.type_name, ", which is not supported (of ", header.tensors.size(),
                                  " tensors in the file ", num_unread,
                                  num_unread == 1 ? " has such a type)" : " have such types)");
    }
    tensors.push_back(std::move(info));
  }
  return std::unique_ptr<GgufFile>(new GgufFile(std::move(file), std::move(tensors), std::move(header.metadata)));
}

}  // namespace tokenferry

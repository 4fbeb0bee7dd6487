// Memory that ranks share: what Device::Export gives away, and who keeps it where ranks are threads of one process.
// Private to core/device.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <type_traits>

#include "absl/strings/string_view.h"
#include "core/status.h"

namespace tokenferry {

// Another process has another number; a PID is not enough, since containers of one host may have the same.
uint64_t ThisProcessToken();

struct ExportedMemory {
  uint64_t process = 0;
  void* data = nullptr;  // in that process
};

// Of this process: the memory stays when its owner releases it, until each who keeps it has let it go.
void KeepExported(void* data);
void LetGoOfExported(void* data);
// The owner is done with memory that it may have exported: calls `free` now, or leaves it to who keeps it last.
void ReleaseExported(void* data, std::function<void()> free);

template <class T>
std::string EncodeExported(const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  return std::string(reinterpret_cast<const char*>(&value), sizeof(T));
}

template <class T>
absl::StatusOr<T> DecodeExported(absl::string_view bytes) {
  static_assert(std::is_trivially_copyable_v<T>);
  T value;
  if (bytes.size() != sizeof(T)) {
    return absl::DataLossError(absl::StrCat("another rank exports memory in ", bytes.size(),
                                            " bytes; does it run on the same kind of device?"));
  }
  std::memcpy(static_cast<void*>(&value), bytes.data(), sizeof(T));
  return value;
}

}  // namespace tokenferry

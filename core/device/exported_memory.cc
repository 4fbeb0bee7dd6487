#include "core/device/exported_memory.h"

#include <map>
#include <mutex>
#include <random>
#include <utility>

namespace tokenferry {
namespace {

struct Kept {
  int num_keepers = 0;
  std::function<void()> free;  // empty: its owner still has it
};

struct Registry {
  std::mutex mutex;
  std::map<void*, Kept> kept;
};

Registry& TheRegistry() {
  static Registry* registry = new Registry;
  return *registry;
}

}  // namespace

uint64_t ThisProcessToken() {
  static const uint64_t token = [] {
    std::random_device random;
    return uint64_t{random()} << 32 | random();
  }();
  return token;
}

void KeepExported(void* data) {
  Registry& registry = TheRegistry();
  const std::lock_guard lock(registry.mutex);
  ++registry.kept[data].num_keepers;
}

void LetGoOfExported(void* data) {
  Registry& registry = TheRegistry();
  std::function<void()> free;
  {
    const std::lock_guard lock(registry.mutex);
    const auto found = registry.kept.find(data);
    if (--found->second.num_keepers > 0) return;
    free = std::move(found->second.free);
    registry.kept.erase(found);
  }
  if (free) free();
}

void ReleaseExported(void* data, std::function<void()> free) {
  Registry& registry = TheRegistry();
  {
    const std::lock_guard lock(registry.mutex);
    const auto found = registry.kept.find(data);
    if (found != registry.kept.end()) {
      found->second.free = std::move(free);
      return;
    }
  }
  free();
}

}  // namespace tokenferry

#include "tests/fakegpu/cudart/runtime.h"

#include <malloc.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

namespace tokenferry::fakegpu {
namespace {

const char* Environment(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : otherwise;
}

Order OrderOfEnvironment() {
  const std::string order = Environment("TF_FAKEGPU_ORDER", "lazy");
  if (order == "eager") return Order::kEager;
  if (order == "lazy") return Order::kLazy;
  if (order == "random") return Order::kRandom;
  std::fprintf(stderr, "fake CUDA: TF_FAKEGPU_ORDER=%s is not eager, lazy or random\n", order.c_str());
  std::abort();
}

// Written at every line, since a test may end without closing it.
std::FILE* FileOfEnvironment(const char* name) {
  const char* path = std::getenv(name);
  if (path == nullptr) return nullptr;
  std::FILE* file = std::fopen(path, "w");
  if (file == nullptr) {
    std::fprintf(stderr, "fake CUDA: cannot write %s=%s\n", name, path);
    std::abort();
  }
  std::setvbuf(file, nullptr, _IOLBF, BUFSIZ);
  return file;
}

}  // namespace

Runtime::Runtime()
    : arch(std::atoi(Environment("TF_FAKEGPU_ARCH", "90"))),
      num_devices(std::atoi(Environment("TF_FAKEGPU_DEVICES", "1"))),
      max_shared_bytes(static_cast<size_t>(std::atoi(Environment("TF_FAKEGPU_SHARED_KIB", arch == 80 ? "163" : "227")))
                       << 10),
      queue(OrderOfEnvironment(), static_cast<uint32_t>(std::atoi(Environment("TF_FAKEGPU_SEED", "1")))),
      launched_file(FileOfEnvironment("TF_FAKEGPU_LAUNCHED")),
      allows_ipc(std::strcmp(Environment("TF_FAKEGPU_IPC", ""), "refused") != 0) {
  // Blocks of threads come and go with megabytes each: the kernel need not clear them every time.
  mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the most that every glibc takes
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  queue.OnStuck([this](Stuck stuck) {
    if (stuck == Stuck::kWaits) LetOthersGoOn();
  });
}

void Runtime::LetOthersGoOn() {
  mutex.unlock();
  std::this_thread::sleep_for(std::chrono::microseconds(50));
  mutex.lock();
}

Runtime& Runtime::Get() {
  static Runtime* runtime = new Runtime();  // objects of others may still call at exit
  return *runtime;
}

}  // namespace tokenferry::fakegpu

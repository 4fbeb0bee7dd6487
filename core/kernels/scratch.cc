#include "core/kernels/scratch.h"

#include <cstdlib>
#include <memory>

#include "core/check.h"

namespace tokenferry {
namespace {

struct Free {
  void operator()(void* p) const { std::free(p); }
};

struct Scratch {
  std::unique_ptr<void, Free> data;
  size_t num_bytes = 0;
};

}  // namespace

void* ThreadScratch(size_t num_bytes) {
  thread_local Scratch scratch;
  if (num_bytes > scratch.num_bytes) {
    num_bytes = (num_bytes + 63) / 64 * 64;
    scratch.data.reset();
    scratch.data.reset(std::aligned_alloc(64, num_bytes));
    TF_CHECK(scratch.data != nullptr);
    scratch.num_bytes = num_bytes;
  }
  return scratch.data.get();
}

}  // namespace tokenferry

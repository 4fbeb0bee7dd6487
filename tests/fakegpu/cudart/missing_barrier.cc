#include "tests/fakegpu/cudart/missing_barrier.h"

#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/strings/match.h"

namespace tokenferry::fakegpu {

void TakeOutBarrier(Kernel& kernel) {
  const char* value = std::getenv("TF_FAKEGPU_WITHOUT_BARRIER");
  if (value == nullptr) return;
  const std::string wanted = value;
  const size_t colon = wanted.rfind(':');
  if (!absl::StrContains(kernel.name, wanted.substr(0, colon))) return;
  const int number = std::atoi(wanted.c_str() + colon + 1);
  int num_barriers = 0;
  for (Statement& statement : kernel.statements) {
    if (statement.opcode != "bar.sync" || num_barriers++ != number) continue;
    statement.opcode = "membar.cta";  // orders nothing here; statements, and so labels and lines, stay where they are
    statement.operands.clear();
  }
  if (number < num_barriers) {
    std::fprintf(stderr, "fake CUDA: %s without barrier %d of %d\n", kernel.name.c_str(), number, num_barriers);
  } else {
    std::fprintf(stderr, "fake CUDA: %s has no barrier %d\n", kernel.name.c_str(), number);
  }
}

}  // namespace tokenferry::fakegpu

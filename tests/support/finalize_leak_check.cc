// In address sanitizer builds MPI_Finalize looks for leaks before it does its work, and nothing looks again at exit:
// Open MPI unloads its plugins there, and what they leak would no longer have a name that lsan.supp could list. With
// leaks found, the process ends with the sanitizer's status.
#include <mpi.h>
#include <sanitizer/lsan_interface.h>

extern "C" int MPI_Finalize() {
  __lsan_do_leak_check();
  return PMPI_Finalize();
}

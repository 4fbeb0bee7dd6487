#include "comm/transport/collectives.h"
#include "comm/transport/nccl/nccl_transport.h"

namespace tokenferry {

absl::StatusOr<std::unique_ptr<Transport>> CreateNcclTransport(Transport& control, Device&, GpuUse) {
  return AgreeOnStatus(control, {"start: nccl"},
                       absl::UnimplementedError("no NCCL: this program was built without CUDA (configure with "
                                                "TOKENFERRY_CUDA=ON, preset 'cuda')"));
}

}  // namespace tokenferry

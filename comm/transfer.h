// The transfers that a transport has under way. What backends keep about each derives from Transfer.
#pragma once

#include <array>
#include <vector>

#include "comm/transport.h"
#include "core/check.h"

namespace tokenferry {

struct Transfer {
  bool open = false;
  int64_t sequence = -1;
  CallSite site;
  std::vector<int64_t> send_offsets, recv_offsets;  // copies: the caller's end with Start

  int64_t send_bytes(int rank) const { return send_offsets[rank + 1] - send_offsets[rank]; }
  int64_t recv_bytes(int rank) const { return recv_offsets[rank + 1] - recv_offsets[rank]; }
  const char* send(int rank) const { return static_cast<const char*>(send_data) + send_offsets[rank]; }
  char* recv(int rank) const { return static_cast<char*>(recv_data) + recv_offsets[rank]; }

  const void* send_data = nullptr;
  void* recv_data = nullptr;
  int64_t row_bytes = 0;
};

// Slots are taken lowest first. All ranks start and finish in the same order: so a transfer has the same slot on each.
template <class State>
class TransferSlots {
 public:
  // Memory is kept: opening allocates nothing once sizes have been seen.
  absl::StatusOr<TransferHandle> Open(const CallSite& site, const AllToAllVArgs& args, int64_t sequence) {
    for (int slot = 0; slot < kMaxTransfersInFlight; ++slot) {
      State& s = slots_[slot];
      if (s.open) continue;
      s.open = true;
      s.sequence = sequence;
      s.site = site;
      s.send_offsets.assign(args.send_offsets.begin(), args.send_offsets.end());
      s.recv_offsets.assign(args.recv_offsets.begin(), args.recv_offsets.end());
      s.send_data = args.send;
      s.recv_data = args.recv;
      s.row_bytes = args.row_bytes;
      return TransferHandle{slot};
    }
    return absl::ResourceExhaustedError(absl::StrCat(ToString(site), ": ", kMaxTransfersInFlight,
                                                     " transfers are under way already; finish one first"));
  }

  State& operator[](TransferHandle handle) {
    TF_CHECK(handle.slot >= 0 && handle.slot < kMaxTransfersInFlight && slots_[handle.slot].open);
    return slots_[handle.slot];
  }

  auto begin() { return slots_.begin(); }
  auto end() { return slots_.end(); }

 private:
  std::array<State, kMaxTransfersInFlight> slots_;
};

}  // namespace tokenferry

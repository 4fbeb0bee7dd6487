// The transfers that a transport has under way. What backends keep about each derives from Transfer.
#pragma once

#include <array>
#include <vector>

#include "comm/transport/transport.h"
#include "core/check.h"

namespace tokenferry {

// Where in its buffer the bytes lie that a transfer moves to or from one rank.
struct MessageBytes {
  int64_t begin = 0, size = 0;
};
inline MessageBytes BytesOfMessage(const AllToAllVArgs& args, absl::Span<const int64_t> offsets, int rank) {
  const int64_t begin = offsets[rank], size = offsets[rank + 1] - begin;
  if (args.num_parts == 1) return {begin, size};
  const RowRange rows = RowsOfPart(size / args.row_bytes, args.row_bytes, args.part, args.num_parts);
  return {begin + rows.begin * args.row_bytes, (rows.end - rows.begin) * args.row_bytes};
}

struct Transfer {
  bool open = false;
  int64_t sequence = -1;
  CallSite site;
  std::vector<MessageBytes> sent, received;  // [R]

  int64_t send_bytes(int rank) const { return sent[rank].size; }
  int64_t recv_bytes(int rank) const { return received[rank].size; }
  const char* send(int rank) const { return static_cast<const char*>(send_data) + sent[rank].begin; }
  char* recv(int rank) const { return static_cast<char*>(recv_data) + received[rank].begin; }

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
      s.sent.clear();
      s.received.clear();
      for (int r = 0; r + 1 < static_cast<int>(args.send_offsets.size()); ++r) {
        s.sent.push_back(BytesOfMessage(args, args.send_offsets, r));
        s.received.push_back(BytesOfMessage(args, args.recv_offsets, r));
      }
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

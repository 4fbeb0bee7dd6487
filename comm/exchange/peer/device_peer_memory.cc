#include "comm/exchange/peer/device_peer_memory.h"

#include <numeric>

#include "comm/transport/collectives.h"
#include "core/round_up.h"

namespace tokenferry {

DevicePeerLayout DevicePeerLayout::For(const DeviceCapacity& c, int64_t row_bytes, int64_t out_bytes) {
  constexpr int64_t kAlignment = 256;
  int64_t end = 0;
  const auto take = [&](int64_t count, int64_t bytes) {
    const int64_t begin = end;
    end = RoundUp(end + count * bytes, kAlignment);
    return begin;
  };
  const int64_t offsets = c.num_ranks + 1, word = sizeof(int64_t), idx = sizeof(int32_t);
  DevicePeerLayout layout;
  layout.flags = take(int64_t{kNumPeerStages} * c.num_ranks, word);
  layout.row_offsets = take(offsets, word);
  layout.selection_offsets = take(offsets, word);
  layout.row_token = take(c.send_selections(), idx);
  layout.selections = take(c.send_selections(), sizeof(WireSelection));
  layout.rows = take(c.tokens, row_bytes);
  layout.recv_selection_offsets = take(offsets, word);
  layout.return_selection = take(c.recv_selections(), idx);
  layout.outputs = take(c.recv_selections(), out_bytes);
  layout.num_bytes = RoundUp(end, MappedMemory::kPieceBytes);
  return layout;
}

absl::StatusOr<std::unique_ptr<DevicePeerMemory>> DevicePeerMemory::Create(Transport& transport, Device& device,
                                                                           Stream& stream,
                                                                           const DeviceCapacity& capacity,
                                                                           const DevicePeerLayout& layout) {
  auto memory = std::make_unique<DevicePeerMemory>();
  auto allocated = device.Allocate(layout.num_bytes, MemoryKind::kDevice, "exchange: peer memory");
  absl::Status status = allocated.status();
  if (status.ok()) {
    memory->own_ = allocated->as<char>();
    // No flag may hold what was there before, and others may raise theirs as soon as they have mapped the memory.
    stream.Fill(memory->mine<char>(layout.flags), 0, kNumPeerStages * capacity.num_ranks * sizeof(int64_t));
    status = stream.Synchronize();
  }
  TF_RETURN_IF_ERROR(AgreeOnStatus(transport, kStartDevicePeer, status));
  std::vector<int> ranks(transport.num_ranks());
  std::iota(ranks.begin(), ranks.end(), 0);
  TF_ASSIGN_OR_RETURN(memory->mapped_,
                      MappedMemory::Create(transport, kStartDevicePeer, device, *std::move(allocated), ranks));
  status = AgreeOnStatus(transport, kStartDevicePeer, memory->UploadTables(device, stream, layout));
  if (status.ok()) return memory;
  memory->mapped_.Unmap(transport, kStartDevicePeer);
  return status;
}

absl::Status DevicePeerMemory::UploadTables(Device& device, Stream& stream, const DevicePeerLayout& layout) {
  std::vector<PeerPart> parts;
  std::vector<SendPlanSource> sources;
  for (int r = 0; r < mapped_.num_ranks(); ++r) {
    char* const base = mapped_.part(r);
    PeerPart& part = parts.emplace_back();
    part.flags = reinterpret_cast<int64_t*>(base + layout.flags);
    part.send = {reinterpret_cast<const int64_t*>(base + layout.row_offsets),
                 reinterpret_cast<const int64_t*>(base + layout.selection_offsets),
                 reinterpret_cast<const WireSelection*>(base + layout.selections)};
    part.row_token = reinterpret_cast<const int32_t*>(base + layout.row_token);
    part.rows = base + layout.rows;
    part.recv_selection_offsets = reinterpret_cast<const int64_t*>(base + layout.recv_selection_offsets);
    part.return_selection = reinterpret_cast<const int32_t*>(base + layout.return_selection);
    part.outputs = base + layout.outputs;
    sources.push_back(part.send);
  }
  const auto upload = [&](auto& buffer, const auto& table) -> absl::Status {
    const size_t num_bytes = table.size() * sizeof(table[0]);
    TF_ASSIGN_OR_RETURN(buffer, device.Allocate(num_bytes, MemoryKind::kDevice, "exchange: where peers' memory lies"));
    stream.CopyToDevice(buffer.data(), table.data(), num_bytes);
    return absl::OkStatus();
  };
  TF_RETURN_IF_ERROR(upload(parts_, parts));
  TF_RETURN_IF_ERROR(upload(sources_, sources));
  return stream.Synchronize();
}

}  // namespace tokenferry

#include "comm/exchange/peer/device_peer_memory.h"

#include "comm/transport/collectives.h"
#include "core/round_up.h"

namespace tokenferry {

DevicePeerLayout DevicePeerLayout::For(const DevicePeerCapacity& c, int64_t row_bytes, int64_t out_bytes) {
  constexpr int64_t kAlignment = 256, kPiece = int64_t{2} << 20;
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
  layout.num_bytes = RoundUp(end, kPiece);
  return layout;
}

absl::StatusOr<std::unique_ptr<DevicePeerMemory>> DevicePeerMemory::Create(Transport& transport, Device& device,
                                                                           Stream& stream,
                                                                           const DevicePeerCapacity& capacity,
                                                                           const DevicePeerLayout& layout) {
  auto memory = std::make_unique<DevicePeerMemory>();
  auto allocated = device.Allocate(layout.num_bytes, MemoryKind::kDevice, "exchange: peer memory");
  absl::Status status = allocated.status();
  if (status.ok()) {
    memory->memory_ = *std::move(allocated);
    // No flag may hold what was there before, and others may raise theirs as soon as they have mapped the memory.
    stream.Fill(memory->mine<char>(layout.flags), 0, kNumPeerStages * capacity.num_ranks * sizeof(int64_t));
    status = stream.Synchronize();
  }
  TF_RETURN_IF_ERROR(AgreeOnStatus(transport, kStartDevicePeer, status));
  status = memory->MapAll(transport, device);
  if (status.ok()) status = AgreeOnStatus(transport, kStartDevicePeer, memory->UploadTables(device, stream, layout));
  if (status.ok()) return memory;
  // Nobody may free what another rank still maps. Where not even that can be agreed on, the job has failed.
  memory->mapped_.clear();
  Barrier(transport, kStartDevicePeer).IgnoreError();
  return status;
}

absl::Status DevicePeerMemory::MapAll(Transport& transport, Device& device) {
  const auto exported = device.Export(memory_);
  TF_RETURN_IF_ERROR(AgreeOnStatus(transport, kStartDevicePeer, exported.status()));
  TF_ASSIGN_OR_RETURN(const std::vector<std::string> all, AllGather(transport, kStartDevicePeer, *exported));
  absl::Status status;
  for (int r = 0; r < transport.num_ranks() && status.ok(); ++r) {
    auto mapped =
        r == transport.rank().value ? std::shared_ptr<void>(memory_.data(), [](void*) {}) : device.Import(all[r]);
    status = Annotate(mapped.status(), absl::StrCat("memory of rank ", r));
    if (mapped.ok()) mapped_.push_back(*std::move(mapped));
  }
  return AgreeOnStatus(transport, kStartDevicePeer, status);
}

absl::Status DevicePeerMemory::UploadTables(Device& device, Stream& stream, const DevicePeerLayout& layout) {
  std::vector<PeerPart> parts;
  std::vector<SendPlanSource> sources;
  for (const std::shared_ptr<void>& mapped : mapped_) {
    char* base = static_cast<char*>(mapped.get());
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

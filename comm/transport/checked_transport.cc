#include "comm/transport/checked_transport.h"

#include <cstring>
#include <vector>

#include "comm/transport/forwarding_transport.h"
#include "comm/transport/transfer.h"

namespace tokenferry {
namespace {

struct Header {
  uint64_t magic = 0x5446434845434b31;  // what is read as a header must be one
  int64_t sequence = 0;
  int64_t step = 0;
  int64_t send_bytes = 0;  // from the header's sender to its receiver
  int64_t recv_bytes = 0;  // what its sender expects from its receiver
  int32_t layer = 0;
  char phase[44] = {};
};
static_assert(sizeof(Header) == 88, "headers travel as bytes");

std::string Describe(const Header& h) {
  const std::string phase(h.phase, strnlen(h.phase, sizeof(h.phase)));
  return absl::StrCat("'", tokenferry::ToString(CallSite{phase.c_str(), h.layer, h.step}), "' (transfer ", h.sequence,
                      ")");
}

class CheckedTransport : public ForwardingTransport {
 public:
  explicit CheckedTransport(std::unique_ptr<Transport> inner)
      : ForwardingTransport(*inner), owned_(std::move(inner)), sent_(num_ranks()), received_(num_ranks()) {
    for (int r = 0; r <= num_ranks(); ++r) header_offsets_.push_back(r * static_cast<int64_t>(sizeof(Header)));
  }
  std::string ToString() const override { return absl::StrCat("checked ", ForwardingTransport::ToString()); }

  absl::StatusOr<TransferHandle> HostBegin(const CallSite& site, const AllToAllVArgs& args) override {
    TF_RETURN_IF_ERROR(Agree(site, args));
    for (int r = 0; r < num_ranks(); ++r) {
      const MessageBytes m = BytesOfMessage(args, args.recv_offsets, r);
      if (m.size > 0) std::memset(static_cast<char*>(args.recv) + m.begin, kPoison, m.size);
    }
    return Keep(inner().HostBegin(site, args));
  }
  absl::Status HostFinish(TransferHandle handle) override { return Keep(inner().HostFinish(handle)); }

  absl::StatusOr<TransferHandle> Begin(Stream& stream, const CallSite& site, const AllToAllVArgs& args) override {
    if (memory_kind() == MemoryKind::kHost) {
      TF_RETURN_IF_ERROR(Annotate(stream.Synchronize(), site));
      return HostBegin(site, args);
    }
    TF_RETURN_IF_ERROR(Agree(site, args));
    for (int r = 0; r < num_ranks(); ++r) {
      const MessageBytes m = BytesOfMessage(args, args.recv_offsets, r);
      if (m.size > 0) stream.Fill(static_cast<char*>(args.recv) + m.begin, kPoison, m.size);
    }
    return Keep(inner().Begin(stream, site, args));
  }
  absl::Status Finish(Stream& stream, TransferHandle handle) override { return Keep(inner().Finish(stream, handle)); }

 private:
  // Swaps headers and compares.
  absl::Status Agree(const CallSite& site, const AllToAllVArgs& args) {
    if (!error_.ok()) return error_;
    ++sequence_;
    TF_RETURN_IF_ERROR(Keep(ValidateArgs(*this, site, args)));
    for (int r = 0; r < num_ranks(); ++r) {
      Header& h = sent_[r];
      h = Header{};
      h.sequence = sequence_;
      h.layer = site.layer;
      h.step = site.step;
      h.send_bytes = BytesOfMessage(args, args.send_offsets, r).size;
      h.recv_bytes = BytesOfMessage(args, args.recv_offsets, r).size;
      std::strncpy(h.phase, site.phase, sizeof(h.phase) - 1);
    }
    TF_RETURN_IF_ERROR(
        Keep(inner().HostAllToAllV(site, {sent_.data(), header_offsets_, received_.data(), header_offsets_})));
    for (int r = 0; r < num_ranks(); ++r) TF_RETURN_IF_ERROR(Keep(Compare(sent_[r], received_[r], r)));
    return absl::OkStatus();
  }

  absl::Status Compare(const Header& mine, const Header& theirs, int r) const {
    const int me = rank().value;
    if (theirs.magic != mine.magic) {
      return absl::FailedPreconditionError(
          absl::StrCat("rank ", me, " is in ", Describe(mine), ", but rank ", r, " sent something that is no header"));
    }
    if (theirs.sequence != mine.sequence || theirs.layer != mine.layer || theirs.step != mine.step ||
        std::memcmp(theirs.phase, mine.phase, sizeof(mine.phase)) != 0) {
      return absl::FailedPreconditionError(absl::StrCat("ranks are in different calls: rank ", me, " in ",
                                                        Describe(mine), ", rank ", r, " in ", Describe(theirs)));
    }
    if (theirs.send_bytes != mine.recv_bytes || theirs.recv_bytes != mine.send_bytes) {
      return absl::FailedPreconditionError(absl::StrCat(Describe(mine), ": sizes disagree: rank ", me, " sends ",
                                                        mine.send_bytes, " bytes to rank ", r, ", which expects ",
                                                        theirs.recv_bytes, "; rank ", r, " sends ", theirs.send_bytes,
                                                        " bytes to rank ", me, ", which expects ", mine.recv_bytes));
    }
    return absl::OkStatus();
  }

  template <class StatusOrHandle>
  StatusOrHandle Keep(StatusOrHandle result) {
    if (error_.ok()) error_.Update(StatusOf(result));
    return result;
  }
  static const absl::Status& StatusOf(const absl::Status& status) { return status; }
  static const absl::Status& StatusOf(const absl::StatusOr<TransferHandle>& handle) { return handle.status(); }

  const std::unique_ptr<Transport> owned_;
  std::vector<Header> sent_, received_;  // [R]
  std::vector<int64_t> header_offsets_;
  int64_t sequence_ = -1;
  absl::Status error_;
};

}  // namespace

std::unique_ptr<Transport> CreateCheckedTransport(std::unique_ptr<Transport> inner) {
  return std::make_unique<CheckedTransport>(std::move(inner));
}

}  // namespace tokenferry

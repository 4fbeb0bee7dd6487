#include "comm/transport/faulty_transport.h"

#include <random>

#include "absl/time/clock.h"
#include "comm/transport/forwarding_transport.h"

namespace tokenferry {
namespace {

class FaultyTransport : public ForwardingTransport {
 public:
  FaultyTransport(std::unique_ptr<Transport> inner, const FaultOptions& options)
      : ForwardingTransport(*inner),
        owned_(std::move(inner)),
        options_(options),
        random_(options.skew_seed + static_cast<uint64_t>(rank().value)) {}
  std::string ToString() const override { return absl::StrCat("faulty ", ForwardingTransport::ToString()); }

  absl::Status EnterPhase(const CallSite& site) override {
    TF_RETURN_IF_ERROR(BeforeCall(site));
    return inner().EnterPhase(site);
  }
  absl::StatusOr<TransferHandle> HostBegin(const CallSite& site, const AllToAllVArgs& args) override {
    TF_RETURN_IF_ERROR(BeforeCall(site));
    return inner().HostBegin(site, args);
  }
  absl::StatusOr<TransferHandle> Begin(Stream& stream, const CallSite& site, const AllToAllVArgs& args) override {
    TF_RETURN_IF_ERROR(BeforeCall(site));
    return inner().Begin(stream, site, args);
  }

 private:
  absl::Status BeforeCall(const CallSite& site) {
    const int64_t call = num_calls_++;
    if (call >= options_.drop_from_call) {
      absl::SleepFor(options_.drop_wait);
      return absl::UnavailableError(absl::StrCat(tokenferry::ToString(site), ": rank ", rank().value,
                                                 " has been dropped at call ", options_.drop_from_call, " by a fault"));
    }
    if (options_.before_call) options_.before_call(site);
    if (call == options_.delay_call || options_.delay_phase == site.phase) absl::SleepFor(options_.delay);
    if (options_.max_skew > absl::ZeroDuration()) {
      absl::SleepFor(options_.max_skew * std::uniform_real_distribution<double>(0, 1)(random_));
    }
    return absl::OkStatus();
  }

  const std::unique_ptr<Transport> owned_;
  const FaultOptions options_;
  std::mt19937_64 random_;
  int64_t num_calls_ = 0;
};

}  // namespace

std::unique_ptr<Transport> CreateFaultyTransport(std::unique_ptr<Transport> inner, const FaultOptions& options) {
  return std::make_unique<FaultyTransport>(std::move(inner), options);
}

}  // namespace tokenferry

// Ranks of one process that say they are on several hosts.
#pragma once

#include <string>

#include "comm/transport/forwarding_transport.h"

namespace tokenferry {

class HostedTransport : public ForwardingTransport {
 public:
  // One letter per rank, its host's name. `transport` must outlive it.
  HostedTransport(Transport& transport, std::string hosts) : ForwardingTransport(transport), hosts_(std::move(hosts)) {}

  std::string ToString() const override { return absl::StrCat(ForwardingTransport::ToString(), " on hosts ", hosts_); }
  std::string host(RankId rank) const override { return hosts_.substr(rank.value, 1); }

 private:
  const std::string hosts_;
};

}  // namespace tokenferry

#include "comm/tuning/cost_model.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>

#include "absl/strings/str_format.h"
#include "comm/transport/collectives.h"
#include "core/host/clock.h"

namespace tokenferry {
namespace {

constexpr int kSmallRounds = 6;
constexpr int64_t kSmallBytes = 64;
constexpr int64_t kFirstBytes = 16 * 1024, kLastBytes = 4 << 20;
constexpr double kEnoughUs = 5000;  // a transfer that takes longer is long enough
constexpr int kLargeRounds = 3;     // the fastest counts: one that something else held up must not decide

class LinkMeter {
 public:
  LinkMeter(Transport& transport, const Topology& topology)
      : transport_(transport),
        topology_(topology),
        me_(transport.rank().value),
        num_ranks_(transport.num_ranks()),
        bytes_(num_ranks_, 0) {}

  absl::StatusOr<LinkCosts> Measure() {
    LinkCosts costs;
    const Stopwatch watch;
    costs.links[static_cast<size_t>(LinkClass::kSelf)].us_per_byte = CopyUsPerByte();
    for (LinkClass link : {LinkClass::kHost, LinkClass::kNetwork}) {
      const bool exists = link == LinkClass::kNetwork ? topology_.num_hosts() > 1 : topology_.num_hosts() < num_ranks_;
      if (!exists) continue;
      TF_ASSIGN_OR_RETURN(costs.links[static_cast<size_t>(link)], MeasureLink(link));
    }
    costs.measured_ms = watch.seconds() * 1e3;
    return Agree(costs);
  }

 private:
  bool On(LinkClass link, int r) const {
    return r != me_ && topology_.same_host(RankId(r), RankId(me_)) == (link == LinkClass::kHost);
  }

  double CopyUsPerByte() {
    std::vector<char> src(kLastBytes, 1), dst(kLastBytes);
    std::memcpy(dst.data(), src.data(), src.size());  // touches the pages
    double best_us = 0;
    for (int i = 0; i < kLargeRounds; ++i) {
      const Stopwatch watch;
      std::memcpy(dst.data(), src.data(), src.size());
      asm volatile("" ::"r"(dst.data()) : "memory");
      const double us = watch.seconds() * 1e6;
      best_us = i == 0 ? us : std::min(best_us, us);
    }
    return best_us / static_cast<double>(src.size());
  }

  // Everybody exchanges bytes_[r] bytes with each rank r, both ways. Microseconds of the slowest rank.
  absl::StatusOr<double> TimeTransfer() {
    std::vector<int64_t> offsets(num_ranks_ + 1);
    for (int r = 0; r < num_ranks_; ++r) offsets[r + 1] = offsets[r] + bytes_[r];
    send_.resize(offsets.back());
    recv_.resize(offsets.back());
    TF_RETURN_IF_ERROR(Barrier(transport_, kSite));
    const Stopwatch watch;
    TF_RETURN_IF_ERROR(transport_.HostAllToAllV(kSite, {send_.data(), offsets, recv_.data(), offsets}));
    return Slowest(watch.seconds() * 1e6);
  }

  absl::StatusOr<double> Slowest(double mine) {
    TF_ASSIGN_OR_RETURN(const auto all,
                        AllGather(transport_, kSite, std::string(reinterpret_cast<const char*>(&mine), sizeof(mine))));
    double slowest = mine;
    for (const std::string& bytes : all) {
      double theirs = 0;
      std::memcpy(&theirs, bytes.data(), std::min(bytes.size(), sizeof(theirs)));
      slowest = std::max(slowest, theirs);
    }
    return slowest;
  }

  absl::StatusOr<double> Fastest(int num_rounds) {
    double best = 0;
    for (int i = 0; i < num_rounds; ++i) {
      TF_ASSIGN_OR_RETURN(const double us, TimeTransfer());
      best = i == 0 ? us : std::min(best, us);
    }
    return best;
  }

  // The pairs of ranks that measure a class: for latency one partner, where the numbers are even; then all of the
  // class.
  absl::StatusOr<LinkCost> MeasureLink(LinkClass link) {
    LinkCost cost;
    const auto partners = [&](int64_t num_bytes, bool all) {
      int n = 0;
      for (int r = 0; r < num_ranks_; ++r) {
        const bool wanted = On(link, r) && (all || Partner(link, me_) == r);
        bytes_[r] = wanted ? num_bytes : 0;
        n += wanted;
      }
      return n;
    };
    partners(kSmallBytes, false);
    TF_ASSIGN_OR_RETURN(cost.latency_us, Fastest(kSmallRounds));
    TF_ASSIGN_OR_RETURN(const double num_all, Slowest(partners(kSmallBytes, true)));
    TF_ASSIGN_OR_RETURN(const double all_us, Fastest(kSmallRounds));
    if (num_all > 1) cost.per_message_us = std::max(0.0, all_us - cost.latency_us) / (num_all - 1);
    for (int64_t size = kFirstBytes; size <= kLastBytes; size *= 4) {
      partners(size / static_cast<int64_t>(num_all), true);
      const auto total = [&] {
        int64_t n = 0;
        for (int64_t b : bytes_) n += b;
        return static_cast<double>(n);
      };
      TF_ASSIGN_OR_RETURN(const double us, Fastest(kLargeRounds));
      // A host's link carries what all its ranks send.
      TF_ASSIGN_OR_RETURN(const double num_bytes, Slowest(total() * (link == LinkClass::kNetwork ? LocalRanks() : 1)));
      cost.us_per_byte = std::max(0.0, us - all_us) / num_bytes;
      if (us > kEnoughUs) break;
    }
    return cost;
  }

  double LocalRanks() const {
    return static_cast<double>(topology_.hosts[topology_.host_idx_per_rank[me_]].ranks.size());
  }

  // Whom rank r exchanges with alone: its neighbour on the host, or its like on the neighbouring host; -1: nobody.
  int Partner(LinkClass link, int r) const {
    const int host = topology_.host_idx_per_rank[r], local = topology_.local_idx_per_rank[r];
    const auto& ranks = topology_.hosts[host].ranks;
    if (link == LinkClass::kHost) return (local ^ 1) < static_cast<int>(ranks.size()) ? ranks[local ^ 1].value : -1;
    if ((host ^ 1) >= topology_.num_hosts()) return -1;
    const auto& others = topology_.hosts[host ^ 1].ranks;
    return local < static_cast<int>(others.size()) ? others[local].value : -1;
  }

  // Rank 0's numbers, so that all choose alike.
  absl::StatusOr<LinkCosts> Agree(const LinkCosts& mine) {
    TF_ASSIGN_OR_RETURN(
        const std::string bytes,
        Broadcast(transport_, kSite, RankId(0), std::string(reinterpret_cast<const char*>(&mine), sizeof(mine))));
    if (bytes.size() != sizeof(mine))
      return absl::DataLossError("link costs: rank 0 sent something else; is it the same program?");
    LinkCosts agreed;
    std::memcpy(&agreed, bytes.data(), sizeof(agreed));
    return agreed;
  }

  static constexpr CallSite kSite{"link costs"};
  Transport& transport_;
  const Topology& topology_;
  const int me_, num_ranks_;
  std::vector<int64_t> bytes_;  // [R] of the next transfer
  std::string send_, recv_;
};

}  // namespace

absl::StatusOr<LinkCosts> MeasureLinks(Transport& transport, const Topology& topology) {
  return LinkMeter(transport, topology).Measure();
}

absl::StatusOr<LinkCosts> MeasureLinksOnce(Transport& transport, const Topology& topology) {
  static std::mutex mutex;  // not absl's: the thread sanitizer does not see into a library that was built without it
  static auto& cache = *new std::map<std::string, LinkCosts>;  // by rank and topology: ranks may be threads
  const std::string key = absl::StrCat(transport.ToString(), ": ", topology.ToString());
  std::optional<LinkCosts> known;
  {
    std::lock_guard lock(mutex);
    if (const auto it = cache.find(key); it != cache.end()) known = it->second;
  }
  // All of them or none: measuring takes everybody.
  TF_ASSIGN_OR_RETURN(const auto all, AllGather(transport, {"link costs"}, known ? "1" : "0"));
  if (std::all_of(all.begin(), all.end(), [](const std::string& answer) { return answer == "1"; })) return *known;
  TF_ASSIGN_OR_RETURN(const LinkCosts costs, MeasureLinks(transport, topology));
  std::lock_guard lock(mutex);
  cache[key] = costs;
  return costs;
}

std::string LinkCosts::ToString() const {
  std::string out;
  const char* const names[] = {"self", "host", "network"};
  for (int i = 0; i < kNumLinkClasses; ++i) {
    if (links[i].us_per_byte == 0 && links[i].latency_us == 0) continue;
    absl::StrAppendFormat(&out, "  %-8s latency %.1f us, each further message %.1f us, %.3f GB/s\n", names[i],
                          links[i].latency_us, links[i].per_message_us,
                          links[i].us_per_byte > 0 ? 1e-3 / links[i].us_per_byte : 0.0);
  }
  absl::StrAppendFormat(&out, "  measured in %.0f ms\n", measured_ms);
  return out;
}

double PredictMicroseconds(const PathTraffic& traffic, const LinkCosts& costs, const Topology& topology) {
  const LinkCost& slowest = costs.of(topology.num_hosts() > 1 ? LinkClass::kNetwork : LinkClass::kHost);
  return traffic.num_transfers * slowest.latency_us + traffic.num_messages * slowest.per_message_us +
         traffic.self_bytes * costs.of(LinkClass::kSelf).us_per_byte +
         traffic.host_bytes * costs.of(LinkClass::kHost).us_per_byte +
         traffic.network_bytes * static_cast<double>(LargestHost(topology)) * costs.of(LinkClass::kNetwork).us_per_byte;
}

PathChoice ChoosePath(const ExchangeShape& shape, const LinkCosts& costs, const Topology& topology) {
  PathChoice choice;
  for (const PathInfo* info : kExchangePaths) {
    const std::optional<PathTraffic> traffic = info->traffic(shape, topology);
    if (!traffic) continue;
    choice.predictions.push_back({info->path, *traffic, PredictMicroseconds(*traffic, costs, topology)});
  }
  std::stable_sort(choice.predictions.begin(), choice.predictions.end(),
                   [](const auto& a, const auto& b) { return a.microseconds < b.microseconds; });
  return choice;
}

std::string Explain(const PathChoice& choice, const ExchangeShape& shape, const LinkCosts& costs,
                    const Topology& topology) {
  std::string out = absl::StrCat(topology.ToString(), "\n", costs.ToString());
  absl::StrAppendFormat(&out, "for %d tokens per rank, top-%d, hidden %d, %d bytes per element:\n",
                        shape.tokens_per_rank, shape.top_k, shape.hidden, shape.row_element_bytes);
  for (const PathPrediction& p : choice.predictions) {
    absl::StrAppendFormat(
        &out, "  %-10s %9.0f us: %.0f transfers, MB per rank: %.2f copied, %.2f inside hosts, %.2f between\n",
        ExchangePathName(p.path), p.microseconds, p.traffic.num_transfers, p.traffic.self_bytes * 1e-6,
        p.traffic.host_bytes * 1e-6, p.traffic.network_bytes * 1e-6);
  }
  absl::StrAppend(&out, "path ", ExchangePathName(choice.path()), ": predicted to be the fastest\n");
  return out;
}

}  // namespace tokenferry

#include "comm/tuning/exchange_choice.h"

#include <algorithm>

#include "comm/transport/collectives.h"
#include "comm/transport/topology.h"
#include "comm/tuning/cost_model.h"
#include "core/log.h"

namespace tokenferry {
namespace {

// What the cost model expects to be the fastest of the paths that send messages, for options.max_tokens tokens per
// rank. Collective; the same on every rank.
enum class PeerPath : uint8_t { kAvailable, kUnavailable };
absl::StatusOr<ExchangePath> FastestPath(Transport& transport, const ExchangeOptions& options, PeerPath peer) {
  constexpr int64_t kUsualTokens = 64, kUsualTopK = 8;  // when the caller has not said
  const Topology topology = Topology::Of(transport);
  const ExchangeShape shape{.tokens_per_rank = options.max_tokens > 0 ? options.max_tokens : kUsualTokens,
                            .top_k = static_cast<int>(options.max_top_k > 0 ? options.max_top_k : kUsualTopK),
                            .hidden = options.hidden,
                            .row_element_bytes = static_cast<int64_t>(DTypeBytes(options.wire_dtype)),
                            .out_element_bytes = static_cast<int64_t>(DTypeBytes(options.output_dtype)),
                            .reduction = options.reduction};
  TF_ASSIGN_OR_RETURN(const LinkCosts costs, MeasureLinksOnce(transport, topology));
  PathChoice choice = ChoosePath(shape, costs, topology);
  if (peer == PeerPath::kUnavailable) {
    std::erase_if(choice.predictions, [](const PathPrediction& p) { return p.path == ExchangePath::kPeer; });
  } else {  // taken, whatever is predicted
    std::stable_partition(choice.predictions.begin(), choice.predictions.end(),
                          [](const PathPrediction& p) { return p.path == ExchangePath::kPeer; });
  }
  if (transport.rank() == RankId(0)) {
    const std::string why = Explain(choice, shape, costs, topology);
    if (options.on_choice) {
      options.on_choice(why);
    } else {
      LogDebug(why);
    }
  }
  // Rank 0's word: another kind of machine might round a prediction differently.
  const char mine = static_cast<char>(choice.path());
  TF_ASSIGN_OR_RETURN(const std::string chosen, Broadcast(transport, {"path"}, RankId(0), std::string(1, mine)));
  for (const PathPrediction& p : choice.predictions) {
    if (chosen.size() == 1 && chosen[0] == static_cast<char>(p.path)) return p.path;
  }
  return absl::DataLossError("path: rank 0 chose none that this rank knows; is it the same program?");
}

// An exchange by the path that was chosen, or alltoallv where two_level cannot share memory.
absl::StatusOr<std::unique_ptr<Exchange>> CreateChosen(Transport& transport, Device& device, ExchangeOptions chosen) {
  auto exchange = Exchange::Create(transport, device, chosen);
  if (exchange.ok() || chosen.path != ExchangePath::kTwoLevel || !IsAgreedOn(exchange.status())) return exchange;
  if (transport.rank() == RankId(0)) {
    LogWarning(absl::StrCat("not taking path two_level: ", exchange.status().message()));
  }
  chosen.path = ExchangePath::kAllToAllV;
  return Exchange::Create(transport, device, chosen);
}

struct SizeChoice {
  int64_t max_tokens;
  ExchangePath path;
};

// For sizes 1, 2, 4, .. and options.max_tokens; neighbours of one path joined.
absl::StatusOr<std::vector<SizeChoice>> ChooseBySize(Transport& transport, const ExchangeOptions& options) {
  std::vector<SizeChoice> choices;
  const auto choose = [&](const ExchangeOptions& at_size) -> absl::Status {
    TF_ASSIGN_OR_RETURN(const ExchangePath path, FastestPath(transport, at_size, PeerPath::kUnavailable));
    if (!choices.empty() && choices.back().path == path) choices.pop_back();
    choices.push_back({at_size.max_tokens, path});
    return absl::OkStatus();
  };
  ExchangeOptions at_size = options;
  at_size.on_choice = [](const std::string&) {};
  for (at_size.max_tokens = 1; at_size.max_tokens < options.max_tokens; at_size.max_tokens *= 2) {
    TF_RETURN_IF_ERROR(choose(at_size));
  }
  TF_RETURN_IF_ERROR(choose(options));
  return choices;
}

}  // namespace

bool MeansPeer(ExchangePath path, const Topology& topology) {
  return path == ExchangePath::kPeer || (path == ExchangePath::kAuto && topology.num_hosts() == 1);
}

absl::StatusOr<std::unique_ptr<Exchange>> CreateExchange(Transport& transport, Device& device,
                                                         const ExchangeOptions& options) {
  if (options.path != ExchangePath::kAuto) return Exchange::Create(transport, device, options);
  // What the model of costs knows are links between host memories.
  const bool on_cpu = device.kind() == DeviceKind::kCpu;
  const auto tell = [&](absl::string_view why) {
    if (!on_cpu && options.on_choice && transport.rank() == RankId(0)) {
      options.on_choice(absl::StrCat(why, " ", device.ToString(), "\n"));
    }
  };
  if (Topology::Of(transport).num_hosts() == 1) {
    ExchangeOptions peer_options = options;
    peer_options.path = ExchangePath::kPeer;
    auto peer = Exchange::Create(transport, device, peer_options);
    if (!peer.ok() && !IsAgreedOn(peer.status())) return peer;  // all ranks go the same way
    if (peer.ok()) {
      // Always taken; what the others would have cost is measured for who asks only.
      if (on_cpu && options.on_choice) {
        TF_RETURN_IF_ERROR(FastestPath(transport, options, PeerPath::kAvailable).status());
      }
      tell("path peer: ranks of one host map the memory of");
      return peer;
    }
    if (transport.rank() == RankId(0)) LogWarning(absl::StrCat("not taking path peer: ", peer.status().message()));
  }
  ExchangeOptions chosen = options;
  if (!on_cpu) {
    tell("path alltoallv: messages of memory of");
    chosen.path = ExchangePath::kAllToAllV;
    return Exchange::Create(transport, device, chosen);
  }
  TF_ASSIGN_OR_RETURN(chosen.path, FastestPath(transport, options, PeerPath::kUnavailable));
  return CreateChosen(transport, device, chosen);
}

absl::StatusOr<ExchangeBySize> ExchangeBySize::Create(Transport& transport, Device& device,
                                                      const ExchangeOptions& options) {
  ExchangeBySize result;
  if (options.path != ExchangePath::kAuto || device.kind() != DeviceKind::kCpu ||
      Topology::Of(transport).num_hosts() == 1) {
    TF_ASSIGN_OR_RETURN(auto exchange, CreateExchange(transport, device, options));
    result.sizes_.push_back({options.max_tokens, exchange.get()});
    result.exchanges_.push_back(std::move(exchange));
    return result;
  }
  TF_ASSIGN_OR_RETURN(const std::vector<SizeChoice> choices, ChooseBySize(transport, options));
  std::vector<ExchangePath> paths;  // of exchanges_, as chosen
  // From the largest size: a path's buffers are for the largest that it is taken for.
  for (auto choice = choices.rbegin(); choice != choices.rend(); ++choice) {
    const auto i = std::find(paths.begin(), paths.end(), choice->path) - paths.begin();
    if (i == static_cast<std::ptrdiff_t>(paths.size())) {
      ExchangeOptions chosen = options;
      chosen.path = choice->path;
      chosen.max_tokens = choice->max_tokens;
      TF_ASSIGN_OR_RETURN(auto exchange, CreateChosen(transport, device, chosen));
      result.exchanges_.push_back(std::move(exchange));
      paths.push_back(choice->path);
    }
    result.sizes_.push_back({choice->max_tokens, result.exchanges_[i].get()});
  }
  std::reverse(result.sizes_.begin(), result.sizes_.end());
  if (options.on_choice && transport.rank() == RankId(0)) {
    options.on_choice(absl::StrCat("by size: ", result.ToString(), "\n"));
  }
  return result;
}

Exchange& ExchangeBySize::For(int64_t most_tokens) const {
  for (const Size& size : sizes_) {
    if (most_tokens <= size.max_tokens) return *size.exchange;
  }
  return *sizes_.back().exchange;
}

std::string ExchangeBySize::ToString() const {
  std::string out;
  for (const Size& size : sizes_) {
    absl::StrAppend(&out, out.empty() ? "" : ", ", ExchangePathName(size.exchange->path()));
    if (sizes_.size() == 1) return out;
    if (&size == &sizes_.back()) {
      absl::StrAppend(&out, " above");
    } else {
      absl::StrAppend(&out, " to ", size.max_tokens, " tokens");
    }
  }
  return out;
}

absl::StatusOr<ExchangeStats> ExchangeBySize::stats(Stream& stream) const {
  const Exchange* const largest = sizes_.back().exchange;
  TF_ASSIGN_OR_RETURN(ExchangeStats sum, largest->stats(stream));
  for (const auto& exchange : exchanges_) {
    if (exchange.get() == largest) continue;
    TF_ASSIGN_OR_RETURN(const ExchangeStats part, exchange->stats(stream));
    sum += part;
  }
  return sum;
}

}  // namespace tokenferry

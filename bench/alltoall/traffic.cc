#include "bench/alltoall/traffic.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "core/keyed_hash.h"

namespace tokenferry {
namespace {

enum Stream : uint64_t { kChoices = 1, kWeights, kPopularity };

absl::Status BadTraffic(absl::string_view text) {
  return absl::InvalidArgumentError(
      absl::StrCat("--traffic '", text, "' is none of uniform, zipf:S (S >= 0), hot:N (N >= 1), grouped, grouped:G:M ",
                   "(1 <= M <= G), silent-rank, trace:FILE"));
}

// A random order of the experts, drawn once for all tokens.
std::vector<int32_t> Popularity(const TrafficShape& shape) {
  std::vector<int32_t> order(shape.num_experts);
  std::iota(order.begin(), order.end(), 0);
  KeyedRandom random(HashKey(shape.seed, kPopularity, 0));
  for (int i = shape.num_experts - 1; i > 0; --i) std::swap(order[i], order[random.Below(i + 1)]);
  return order;
}

// The first `count` of a random order of pool[begin ..), moved there.
void Draw(KeyedRandom& random, std::vector<int32_t>& pool, int begin, int count) {
  for (int i = begin; i < begin + count; ++i) {
    std::swap(pool[i], pool[i + random.Below(static_cast<uint32_t>(pool.size()) - i)]);
  }
}

// The K best by `score`, ties by index, into `out`.
void TakeBest(const std::vector<double>& score, int top_k, std::vector<int32_t>& order, int32_t* out) {
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + top_k, order.end(),
                    [&](int32_t a, int32_t b) { return score[a] != score[b] ? score[a] > score[b] : a < b; });
  std::copy_n(order.begin(), top_k, out);
}

double Normal(KeyedRandom& random) {  // Box and Muller
  const double u = random.Uniform(), v = random.Uniform();
  return std::sqrt(-2 * std::log(u)) * std::cos(2 * M_PI * v);
}

class Chooser {
 public:
  Chooser(const TrafficSpec& spec, const TrafficShape& shape)
      : spec_(spec),
        shape_(shape),
        popularity_(Popularity(shape)),
        order_(shape.num_experts),
        score_(shape.num_experts) {
    if (spec.kind != TrafficSpec::Kind::kZipf) return;
    weight_.resize(shape.num_experts);
    for (int i = 0; i < shape.num_experts; ++i) weight_[popularity_[i]] = std::pow(i + 1.0, -spec.exponent);
  }

  void Choose(int64_t token, int32_t* out) {
    KeyedRandom random(HashKey(shape_.seed, kChoices, token));
    const int K = shape_.top_k;
    switch (spec_.kind) {
      case TrafficSpec::Kind::kZipf:
        // Exponential races: the order of arrival is that of drawing without replacement (Efraimidis, Spirakis 2006).
        for (int e = 0; e < shape_.num_experts; ++e) score_[e] = std::log(random.Uniform()) / weight_[e];
        return TakeBest(score_, K, order_, out);
      case TrafficSpec::Kind::kHot:
        pool_ = popularity_;
        std::swap(pool_[0], pool_[random.Below(spec_.num_hot)]);
        // The other hot ones go to the front's place, so that the rest holds cold experts only.
        out[0] = pool_[0];
        pool_.erase(pool_.begin(), pool_.begin() + spec_.num_hot);
        Draw(random, pool_, 0, K - 1);
        std::copy_n(pool_.begin(), K - 1, out + 1);
        return;
      case TrafficSpec::Kind::kGrouped:
        return ChooseGrouped(random, out);
      default:
        pool_ = popularity_;
        Draw(random, pool_, 0, K);
        std::copy_n(pool_.begin(), K, out);
    }
  }

 private:
  void ChooseGrouped(KeyedRandom& random, int32_t* out) {
    const int size = shape_.num_experts / spec_.num_groups;
    std::vector<std::pair<double, int>> groups(spec_.num_groups);
    for (int g = 0; g < spec_.num_groups; ++g) {
      double best = -1e300, second = -1e300;
      for (int e = g * size; e < (g + 1) * size; ++e) {
        score_[e] = Normal(random);
        if (score_[e] > best) {
          second = best;
          best = score_[e];
        } else if (score_[e] > second) {
          second = score_[e];
        }
      }
      groups[g] = {-(size > 1 ? best + second : best), g};
    }
    std::sort(groups.begin(), groups.end());
    for (int g = spec_.groups_kept; g < spec_.num_groups; ++g) {
      std::fill_n(score_.begin() + groups[g].second * size, size, -1e300);
    }
    TakeBest(score_, shape_.top_k, order_, out);
  }

  const TrafficSpec& spec_;
  const TrafficShape& shape_;
  const std::vector<int32_t> popularity_;
  std::vector<int32_t> order_, pool_;
  std::vector<double> weight_, score_;
};

void MakeWeights(const TrafficShape& shape, int64_t token, const int32_t* experts, float* weight) {
  KeyedRandom random(HashKey(shape.seed, kWeights, token));
  double sum = 0;
  std::vector<double> w(shape.top_k, 0.0);
  for (int k = 0; k < shape.top_k; ++k) {
    if (experts[k] >= 0) sum += w[k] = 0.1 + random.Uniform();
  }
  for (int k = 0; k < shape.top_k; ++k) weight[k] = sum > 0 ? static_cast<float>(w[k] / sum) : 0.0f;
}

}  // namespace

absl::StatusOr<TrafficSpec> ParseTraffic(absl::string_view text) {
  TrafficSpec spec;
  spec.text = std::string(text);
  const std::vector<std::string> parts = absl::StrSplit(text, ':');
  if (absl::ConsumePrefix(&text, "trace:")) {
    spec.kind = TrafficSpec::Kind::kTrace;
    spec.file = std::string(text);
    if (!spec.file.empty()) return spec;
  } else if (parts[0] == "uniform" && parts.size() == 1) {
    return spec;
  } else if (parts[0] == "silent-rank" && parts.size() == 1) {
    spec.kind = TrafficSpec::Kind::kSilentRank;
    return spec;
  } else if (parts[0] == "zipf" && parts.size() == 2) {
    spec.kind = TrafficSpec::Kind::kZipf;
    if (absl::SimpleAtod(parts[1], &spec.exponent) && spec.exponent >= 0 && spec.exponent <= 100) return spec;
  } else if (parts[0] == "hot" && parts.size() == 2) {
    spec.kind = TrafficSpec::Kind::kHot;
    if (absl::SimpleAtoi(parts[1], &spec.num_hot) && spec.num_hot >= 1) return spec;
  } else if (parts[0] == "grouped") {
    spec.kind = TrafficSpec::Kind::kGrouped;
    if (parts.size() == 1) return spec;
    if (parts.size() == 3 && absl::SimpleAtoi(parts[1], &spec.num_groups) &&
        absl::SimpleAtoi(parts[2], &spec.groups_kept) && spec.groups_kept >= 1 && spec.groups_kept <= spec.num_groups)
      return spec;
  }
  return BadTraffic(spec.text);
}

absl::Status CheckTraffic(const TrafficSpec& spec, const TrafficShape& shape, const RoutingTrace* trace) {
  const int E = shape.num_experts, K = shape.top_k;
  const auto refuse = [&](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("--traffic ", spec.text, " with --experts ", E, " --top-k ", K, ": ", why));
  };
  if (K < 1 || K > E) return refuse("a token cannot choose so many of them");
  switch (spec.kind) {
    case TrafficSpec::Kind::kHot:
      if (spec.num_hot > E - (K - 1)) return refuse("too few other experts are left");
      break;
    case TrafficSpec::Kind::kGrouped:
      if (E % spec.num_groups != 0) return refuse(absl::StrCat("experts do not form ", spec.num_groups, " groups"));
      if (K > E / spec.num_groups * spec.groups_kept) return refuse("the kept groups have too few experts");
      break;
    case TrafficSpec::Kind::kTrace:
      if (trace->num_experts != E || trace->top_k != K) {
        return refuse(absl::StrCat("the trace has ", trace->num_experts, " experts and top-", trace->top_k));
      }
      break;
    default:
      break;
  }
  return absl::OkStatus();
}

HostTraffic MakeTraffic(const TrafficSpec& spec, const TrafficShape& shape, const RoutingTrace* trace,
                        int64_t first_token, int64_t num_tokens) {
  HostTraffic traffic;
  const int64_t K = shape.top_k;
  traffic.expert_idx.resize(num_tokens * K);
  traffic.weight.resize(num_tokens * K);
  Chooser chooser(spec, shape);
  for (int64_t t = 0; t < num_tokens; ++t) {
    int32_t* experts = traffic.expert_idx.data() + t * K;
    if (spec.kind == TrafficSpec::Kind::kTrace) {
      std::copy_n(trace->expert_idx.begin() + (first_token + t) % trace->num_rows() * K, K, experts);
    } else {
      chooser.Choose(first_token + t, experts);
    }
    MakeWeights(shape, first_token + t, experts, traffic.weight.data() + t * K);
  }
  return traffic;
}

int64_t TokensOfRank(const TrafficSpec& spec, int64_t tokens, int rank, int num_ranks) {
  return spec.kind == TrafficSpec::Kind::kSilentRank && num_ranks > 1 && rank == num_ranks - 1 ? 0 : tokens;
}

}  // namespace tokenferry

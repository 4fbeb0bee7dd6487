// One rank's part of exchanges in steady state: routings differ and come back, buffers have grown.
#pragma once

#include <memory>
#include <vector>

#include "comm/exchange/exchange.h"

namespace tokenferry {

class SteadyExchanges {
 public:
  // Collective. 24 tokens of hidden size 40 per rank, top-3 of 8.
  SteadyExchanges(Transport& transport, ExchangePath path, Reduction reduction, DType wire_dtype, DType output_dtype);

  // Collective: every routing once, then `num_exchanges` more, between which nothing else is done.
  void WarmUp();
  void Run(int num_exchanges);

 private:
  static constexpr int kNumRoutings = 5;
  void RunOne(int routing);

  const Placement placement_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Exchange> exchange_;
  std::vector<std::vector<int32_t>> expert_idx_;
  std::vector<std::vector<float>> weight_;
  std::vector<float> rows_, out_;
};

}  // namespace tokenferry

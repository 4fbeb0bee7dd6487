#include "bench/alltoall/published.h"

namespace tokenferry {
namespace {

// github.com/deepseek-ai/DeepEP, docs/legacy.md (V1): times of its kernels; NVLink moves 160 GB/s there, a NIC 50.
constexpr char kMachine[] = "DeepEP V1, fp8 and bf16, on H800";

constexpr PublishedFigure kNormal[] = {
    {8, 0, 153, 0, 158, "NVLink"}, {16, 0, 43, 0, 43, "RDMA"}, {32, 0, 58, 0, 57, "RDMA"}, {64, 0, 51, 0, 50, "RDMA"}};
constexpr PublishedFigure kLowLatency[] = {{8, 77, 98, 114, 127, "RDMA"},   {16, 118, 63, 195, 74, "RDMA"},
                                           {32, 155, 48, 273, 53, "RDMA"},  {64, 173, 43, 314, 46, "RDMA"},
                                           {128, 192, 39, 369, 39, "RDMA"}, {256, 194, 39, 360, 40, "RDMA"}};

constexpr PublishedSetting kSettings[] = {
    {"deepep-normal", kMachine, "(token, rank); between hosts DeepEP counts (token, host)", &RowBases::rank, kNormal},
    {"deepep-ll", kMachine, "(token, expert)", &RowBases::selection, kLowLatency}};

}  // namespace

const PublishedSetting* FindPublished(const std::string& preset) {
  for (const PublishedSetting& setting : kSettings) {
    if (preset == setting.preset) return &setting;
  }
  return nullptr;
}

}  // namespace tokenferry

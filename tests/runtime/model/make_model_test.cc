// What bench/make_model.py writes is a checkpoint like any other.
#include <gtest/gtest.h>

#include <cstdlib>

#include "core/device/cpu_device.h"
#include "runtime/families/families.h"
#include "runtime/model/model_summary.h"
#include "runtime/model/weights.h"
#include "tests/support/checkpoint_writer.h"
#include "tests/support/status_matchers.h"

namespace tokenferry::testing {
namespace {

TEST(MakeModel, WritesWhatTheLoaderReads) {
  TempDir dir;
  const std::string command =
      absl::StrCat("python3 ", std::getenv("TF_SOURCE_DIR"), "/bench/make_model.py ", dir.path(),
                   "/m --preset tiny --layers 2 --hidden 200 --experts 8 --top-k 2 --expert-width 72 --dense-width 136"
                   " --q-rank 96 --kv-rank 64 --vocab 300 --shard-gb 0.001 > /dev/null 2>&1");
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
  const std::string model = dir.path() + "/m";
  const auto config = LoadModelSpec(model);
  const auto checkpoint = Checkpoint::Open(model);
  ASSERT_OK(config);
  ASSERT_OK(checkpoint);
  EXPECT_GT(checkpoint->num_shards(), 1);
  const auto checked = CheckCheckpoint(*config, *checkpoint);
  ASSERT_OK(checked);
  EXPECT_EQ(checked->num_unknown, 0);
  const auto device = CreateCpuDevice({});
  const auto stream = device->CreateStream();
  ASSERT_OK(stream);
  const Placement placement = Placement::Linear(8, 1);
  const auto weights = LoadWeights(*checkpoint, checked->plan, **stream, {.placement = &placement});
  ASSERT_OK(weights);
  EXPECT_EQ(weights->stats.bytes_kept, SummarizeModel(checked->plan).Total().num_bytes);
  EXPECT_EQ(weights->layers[1].expert_gate.host[7].rows, 72);
}

}  // namespace
}  // namespace tokenferry::testing

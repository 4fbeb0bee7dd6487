// The benchmark's own operations on a GPU against their references, bit for bit.
#include "bench/alltoall/bench_ops.h"
#include "tests/support/cuda_compare.h"

namespace tokenferry {
namespace {

constexpr int64_t kSourceRows = 9;

std::vector<uint8_t> Bytes(OpRun& run, int64_t size) {
  std::vector<uint8_t> bytes(size);
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(run.rng()());
  return bytes;
}

class BenchOpsCudaTest : public CudaCompareTest {
 protected:
  void ForShapes(const std::function<void(int64_t, int64_t)>& test) {
    for (const int64_t num_rows : kRowCounts) {
      for (const int64_t width : kWidths) {
        SCOPED_TRACE(testing::Message() << num_rows << " rows of " << width);
        test(num_rows, width);
      }
    }
  }
};

// Rows that lie on 16 bytes and rows that do not, all selections and the first of them.
TEST_F(BenchOpsCudaTest, ReadRows) {
  ForShapes([&](int64_t num_selections, int64_t row_bytes) {
    for (const int64_t stride : {(row_bytes + 15) / 16 * 16, row_bytes}) {
      ExpectSameBits(
          [&](OpRun& run) {
            ReadRowsArgs args;
            args.rows = run.Input(Bytes(run, kSourceRows * stride));
            args.row_stride = stride;
            args.row_bytes = row_bytes;
            args.row_idx = run.Input(UniformInts(run.rng(), num_selections, 0, kSourceRows));
            args.num_selections = num_selections;
            if (run.rng()() % 2 == 0) args.num_read = run.Input(std::vector<int64_t>{num_selections / 2});
            args.checksum = run.Output<uint64_t>("checksums", num_selections);
            run.stream().Launch(kReadRows, args);
          },
          4);
    }
  });
}

template <class In, class Out>
void TransformCase(OpRun& run, int64_t num_selections, int64_t hidden) {
  const int64_t num_slots = 5, room = 3;
  std::vector<int64_t> offsets = {0};
  for (int64_t s = 1; s < num_slots; ++s) {
    offsets.push_back(offsets.back() + run.rng()() % (num_selections - offsets.back() + 1));
  }
  offsets.push_back(num_selections);
  TransformRowsArgs args;
  args.rows = run.Input(NormalValues<In>(run.rng(), kSourceRows * hidden));
  args.dtype = kDTypeOf<In>;
  args.row_stride = hidden;
  args.row_idx = run.Input(UniformInts(run.rng(), num_selections + room, 0, kSourceRows));
  args.slot_offsets = run.Input(offsets);
  std::vector<float> factors;
  for (int e = 0; e < num_slots; ++e) factors.push_back(ExpertFactor(3 * e));
  args.slot_factor = run.Input(factors);
  args.num_slots = num_slots;
  args.max_selections = num_selections + room;
  args.hidden = hidden;
  args.out = run.Output<Out>("out", (num_selections + room) * hidden);
  args.out_stride = hidden;
  args.out_dtype = kDTypeOf<Out>;
  run.stream().Launch(kTransformRows, args);
}

TEST_F(BenchOpsCudaTest, TransformRows) {
  ForShapes([&](int64_t num_selections, int64_t hidden) {
    ExpectSameBits([&](OpRun& run) { TransformCase<float, float>(run, num_selections, hidden); }, 2);
    ExpectSameBits([&](OpRun& run) { TransformCase<BF16, float>(run, num_selections, hidden); }, 2);
    ExpectSameBits([&](OpRun& run) { TransformCase<float, BF16>(run, num_selections, hidden); }, 2);
    ExpectSameBits([&](OpRun& run) { TransformCase<BF16, BF16>(run, num_selections, hidden); }, 2);
  });
}

TEST_F(BenchOpsCudaTest, MoveRows) {
  ForShapes([&](int64_t num_rows, int64_t row_bytes) {
    ExpectSameBits(
        [&](OpRun& run) {
          MoveRowsArgs args;
          args.src = run.Input(Bytes(run, kSourceRows * row_bytes));
          args.src_idx = run.Input(UniformInts(run.rng(), num_rows, 0, kSourceRows));
          args.dst = run.Output<uint8_t>("moved", num_rows * row_bytes);
          std::vector<int32_t> places = UniformInts(run.rng(), num_rows, 0, 1);  // backwards
          for (size_t i = 0; i < places.size(); ++i) places[i] = static_cast<int32_t>(places.size() - 1 - i);
          args.dst_idx = run.Input(places);
          args.num_rows = num_rows;
          args.row_bytes = row_bytes;
          run.stream().Launch(kMoveRows, args);
        },
        2);
  });
}

}  // namespace
}  // namespace tokenferry

// ctest: opencl
#include "cl_kernels/experts.h"

#include <gtest/gtest.h>

#include <numeric>

#include "tests/support/cl_fixture.h"

namespace tandem {
namespace {

using test::Shapes;
using test::TestWeight;

double Silu(double v) { return v / (1 + std::exp(-v)); }

struct Expert {
  TestWeight gate, up, down;
  int slab = 0;  // -1: not on this device
};

struct Case {
  std::int64_t T, K, E, D, F;
  bool shared = false;
  std::int64_t shared_F = 0;
  int slabs = 1;
  int away = 0;  // every so many-th expert is not on this device; 0: all are
  std::int64_t tile_rows = 8;
  bool sum = true;
};

// What the device made of one case.
struct Result {
  std::vector<std::int32_t> ids, token_pairs;
  std::vector<float> x, weights, act, pair_out, y0, y;
};

class ExpertsTest : public test::ClShapesTest {
 protected:
  static std::int64_t Choices(const Case& c) { return c.K + (c.shared ? 1 : 0); }
  static std::int64_t MostF(const Case& c) { return std::max(c.F, c.shared_F); }

  static std::vector<Expert> MakeExperts(DType gate_up, DType down, const Case& c) {
    std::vector<Expert> experts;
    for (std::int64_t e = 0; e < c.E + (c.shared ? 1 : 0); ++e) {
      const std::int64_t F = e == c.E ? c.shared_F : c.F;
      const auto seed = static_cast<unsigned>(100 + 10 * e);
      Expert expert{test::MakeWeight(gate_up, F, c.D, seed),
                    test::MakeWeight(gate_up, F, c.D, seed + 2),
                    test::MakeWeight(down, c.D, F, seed + 4), static_cast<int>(e % c.slabs)};
      if (c.away > 0 && e % c.away == 1) expert.slab = -1;
      experts.push_back(std::move(expert));
    }
    return experts;
  }

  static cl::ExpertEntry Place(const Expert& e, std::vector<test::WeightBlob>& slabs) {
    cl::ExpertEntry entry;
    if (e.slab < 0) return entry;
    test::WeightBlob& slab = slabs[static_cast<std::size_t>(e.slab)];
    const cl::Weight gate = slab.Add(e.gate);
    const cl::Weight up = slab.Add(e.up);
    const cl::Weight down = slab.Add(e.down);
    return {gate.offset, gate.scale_offset, up.offset, up.scale_offset,
            down.offset, down.scale_offset, e.slab,    static_cast<cl_int>(e.gate.rows)};
  }

  // K different experts for each row.
  static std::vector<std::int32_t> Choose(const Case& c) {
    std::mt19937 random(static_cast<unsigned>(c.T + c.E));
    std::vector<std::int32_t> ids;
    for (std::int64_t t = 0; t < c.T; ++t) {
      const auto first = static_cast<std::int64_t>(random() % c.E);
      for (std::int64_t k = 0; k < c.K; ++k) {
        ids.push_back(static_cast<std::int32_t>((first + k * (t % 2 + 1)) % c.E));
      }
    }
    return ids;
  }

  Result Run(const Case& c, const std::vector<Expert>& experts, DType gate_up, DType down) {
    const std::int64_t C = Choices(c);
    const std::int64_t P = c.T * C;
    std::vector<test::WeightBlob> blobs(static_cast<std::size_t>(c.slabs));
    std::vector<cl::ExpertEntry> table(1);  // the layer's table begins at entry 1
    for (const Expert& e : experts) table.push_back(Place(e, blobs));
    std::vector<ClBuffer> slabs;
    std::vector<cl_mem> slab_mems;
    for (const test::WeightBlob& blob : blobs) {
      slabs.push_back(blob.Upload(device()));
      slab_mems.push_back(slabs.back().get());
    }
    Result r;
    r.ids = Choose(c);
    r.weights = test::RandomFloats(static_cast<std::size_t>(c.T * c.K), 4);
    r.x = test::RandomFloats(static_cast<std::size_t>(c.T * c.D), 3, 0.5F);
    r.y0 = test::RandomFloats(static_cast<std::size_t>(c.T * c.D), 5);
    const std::int64_t F = MostF(c);
    const std::int64_t max_tiles = cl::MaxTiles(c.T, C, std::ssize(experts), c.tile_rows);
    const ClBuffer d_table = test::Upload(device(), table);
    const ClBuffer ids = test::Upload(device(), r.ids);
    const ClBuffer weights = test::Upload(device(), r.weights);
    const ClBuffer tiles = test::Upload(device(), std::vector<cl::ExpertTile>(max_tiles));
    const ClBuffer n_tiles = test::Upload(device(), std::vector<std::int32_t>(1));
    const ClBuffer pair_row = test::Upload(device(), std::vector<std::int32_t>(P));
    const ClBuffer pair_weight = test::Upload(device(), std::vector<float>(P));
    const ClBuffer token_pairs = test::Upload(device(), std::vector<std::int32_t>(P));
    const ClBuffer x = test::Upload(device(), r.x);
    const ClBuffer y = test::Upload(device(), r.y0);
    const ClBuffer act = test::Upload(device(), std::vector<float>(P * F));
    const ClBuffer out = test::Upload(device(), std::vector<float>(P * c.D));
    cl::GroupArgs g;
    g.ids = {ids.get(), 0};
    g.weights = {weights.get(), 0};
    g.table = {d_table.get(), sizeof(cl::ExpertEntry) / 4};
    g.T = c.T;
    g.K = c.K;
    g.E = c.E;
    g.shared = c.shared;
    g.tile_rows = c.tile_rows;
    g.tiles = {tiles.get(), 0};
    g.n_tiles = {n_tiles.get(), 0};
    g.pair_row = {pair_row.get(), 0};
    g.pair_weight = {pair_weight.get(), 0};
    g.token_pairs = {token_pairs.get(), 0};
    kernels().Group(g);
    cl::ExpertsArgs a;
    a.slabs = slab_mems;
    a.gate_up = gate_up;
    a.down = down;
    a.D = c.D;
    a.F = F;
    a.F_unit = c.shared ? std::gcd(c.F, c.shared_F) : c.F;
    a.table = g.table;
    a.tiles = g.tiles;
    a.n_tiles = g.n_tiles;
    a.max_tiles = max_tiles;
    a.tile_rows = c.tile_rows;
    a.pair_row = g.pair_row;
    a.pair_weight = g.pair_weight;
    a.token_pairs = g.token_pairs;
    a.T = c.T;
    a.C = C;
    a.x = {x.get(), 0};
    a.x_stride = c.D;
    a.act = {act.get(), 0};
    a.pair_out = {out.get(), 0};
    a.y = {y.get(), 0};
    a.y_stride = c.D;
    a.sum = c.sum;
    kernels().Experts(a);
    r.token_pairs = test::Download<std::int32_t>(device(), token_pairs, P);
    r.act = test::Download<float>(device(), act, P * F);
    r.pair_out = test::Download<float>(device(), out, P * c.D);
    r.y = test::Download<float>(device(), y, r.y0.size());
    return r;
  }

  // act of one pair from x, in double precision.
  static void SeeAct(const Expert& e, const float* x, double weight, const float* act,
                     test::Worst& worst, std::int64_t p) {
    const std::int64_t D = e.gate.cols;
    for (std::int64_t f = 0; f < e.gate.rows; ++f) {
      test::Reference gate, up;
      for (std::int64_t d = 0; d < D; ++d) {
        gate.Add(x[d], e.gate.values[f * D + d]);
        up.Add(x[d], e.up.values[f * D + d]);
      }
      // silu's slope is below 1.1 and |silu(v)| <= |v|: errors of both factors, to first order.
      const test::Reference want{
          weight * Silu(gate.value) * up.value,
          std::fabs(weight) * (1.1 * gate.size * std::fabs(up.value) +
                               std::fabs(Silu(gate.value)) * up.size + gate.size * up.size * 1e-5)};
      worst.See(act[f], want, test::DotFactor(D), p, f);
    }
  }

  // y (or pair_out) from the device's act, so that each tolerance is that of one product.
  void Check(DType gate_up, DType down, const Case& c) {
    const std::vector<Expert> experts = MakeExperts(gate_up, down, c);
    const Result r = Run(c, experts, gate_up, down);
    const std::int64_t C = Choices(c);
    const std::int64_t F = MostF(c);
    test::Worst worst;
    for (std::int64_t t = 0; t < c.T; ++t) {
      std::vector<test::Reference> sums(static_cast<std::size_t>(c.D));
      for (std::int64_t d = 0; d < c.D; ++d) sums[d].Add(r.y0[t * c.D + d], 1);
      for (std::int64_t i = 0; i < C; ++i) {
        const std::int64_t id = i < c.K ? r.ids[t * c.K + i] : c.E;
        const Expert& e = experts[static_cast<std::size_t>(id)];
        const std::int64_t p = r.token_pairs[t * C + i];
        ASSERT_EQ(p < 0, e.slab < 0);
        if (p < 0) continue;
        const float* act = r.act.data() + p * F;
        SeeAct(e, r.x.data() + t * c.D, i < c.K ? r.weights[t * c.K + i] : 1.0F, act, worst, p);
        for (std::int64_t d = 0; d < c.D; ++d) {
          test::Reference one;
          for (std::int64_t f = 0; f < e.gate.rows; ++f) {
            one.Add(act[f], e.down.values[d * e.gate.rows + f]);
          }
          sums[d].value += one.value;
          sums[d].size += one.size;
          if (!c.sum) worst.See(r.pair_out[p * c.D + d], one, test::DotFactor(F), p, d);
        }
      }
      for (std::int64_t d = 0; d < c.D; ++d) {
        if (!c.sum) {
          EXPECT_EQ(r.y[t * c.D + d], r.y0[t * c.D + d]);
        } else {
          worst.See(r.y[t * c.D + d], sums[d], test::DotFactor(F * C), t, d);
        }
      }
    }
    EXPECT_TRUE(worst.Verdict()) << Name(gate_up) << " T " << c.T << " D " << c.D << " F " << F;
  }
};

TEST_P(ExpertsTest, OneRow) {
  for (const DType dtype : Formats()) {
    Check(dtype, dtype, {.T = 1, .K = 3, .E = 5, .D = 256, .F = 128});
    Check(dtype, dtype, {.T = 1, .K = 2, .E = 5, .D = 33, .F = 17, .shared = true, .shared_F = 35});
  }
}

TEST_P(ExpertsTest, AFewRows) {
  for (const DType dtype : Formats()) {
    for (const std::int64_t T : {2, 3, 20}) {
      Check(dtype, dtype,
            {.T = T, .K = 3, .E = 5, .D = 144, .F = 80, .shared = true, .shared_F = 160});
    }
    Check(dtype, dtype, {.T = 9, .K = 2, .E = 3, .D = 33, .F = 17});
  }
}

TEST_P(ExpertsTest, TilesOfManyRows) {
  for (const DType dtype : Formats()) {
    Check(dtype, dtype, {.T = 70, .K = 2, .E = 3, .D = 130, .F = 48, .tile_rows = 64});
  }
  Check(DType::kF8E4M3, DType::kF8E4M3,
        {.T = 100, .K = 1, .E = 2, .D = 32, .F = 48, .slabs = 2, .tile_rows = 128});
}

TEST_P(ExpertsTest, BlockFormats) {
  Check(DType::kQ4_K, DType::kQ6_K, {.T = 1, .K = 2, .E = 3, .D = 512, .F = 256});
  if (slow_to_compile()) return;  // the other forms: F8
  // On a CPU every form decodes by the same function, which linear_test meets in each format.
  const bool one_decoder = GetParam() == Shapes::kCpu;
  for (const DType dtype : BlockFormats()) {
    for (const std::int64_t T : {1, 4}) {
      if (one_decoder && dtype != DType::kQ5_0 && dtype != DType::kQ6_K) continue;
      Check(dtype, dtype,
            {.T = T, .K = 2, .E = 3, .D = 256, .F = 256, .shared = true, .shared_F = 512});
    }
  }
}

TEST_P(ExpertsTest, OneRowOfSmallCodes) {
  for (const DType dtype :
       {DType::kF8E4M3, DType::kQ8_0, DType::kQ4_0, DType::kMXFP4, DType::kQ4_K}) {
    if (GetParam() != Shapes::kOwn && dtype != DType::kQ4_K) continue;
    Check(dtype, dtype,
          {.T = 1, .K = 3, .E = 5, .D = 512, .F = 256, .shared = true, .shared_F = 768});
    Check(dtype, dtype, {.T = 1, .K = 4, .E = 6, .D = 256, .F = 512, .slabs = 2, .away = 3});
    Check(dtype, dtype, {.T = 1, .K = 8, .E = 8, .D = 256, .F = 1024});
    Check(dtype, dtype, {.T = 1, .K = 6, .E = 7, .D = 512, .F = 2560});
    if (dtype != DType::kF8E4M3 && dtype != DType::kQ8_0) continue;
    // Runs of 256 columns that two experts share, and one that the last has half of.
    Check(dtype, dtype,
          {.T = 1, .K = 4, .E = 6, .D = 384, .F = 384, .shared = true, .shared_F = 640});
  }
}

TEST_P(ExpertsTest, SlabsAndExpertsElsewhere) {
  for (const std::int64_t T : {1, 2, 12}) {
    Check(DType::kF8E4M3, DType::kF8E4M3, {.T = T, .K = 4, .E = 8, .D = 64, .F = 48, .slabs = 3});
    Check(DType::kF8E4M3, DType::kF8E4M3, {.T = T, .K = 4, .E = 8, .D = 64, .F = 48, .away = 2});
    Check(DType::kF8E4M3, DType::kF8E4M3,
          {.T = T, .K = 4, .E = 8, .D = 64, .F = 48, .away = 3, .sum = false});
  }
}

TEST_P(ExpertsTest, DeepSeekShapes) {
  Check(DType::kF8E4M3, DType::kF8E4M3, {.T = 1, .K = 2, .E = 2, .D = 2048, .F = 64});
  Check(DType::kF8E4M3, DType::kF8E4M3, {.T = 2, .K = 1, .E = 2, .D = 64, .F = 1408});
  Check(DType::kF8E4M3, DType::kF8E4M3, {.T = 1, .K = 1, .E = 2, .D = 7168, .F = 32});
}

TEST_P(ExpertsTest, RowsOfATile) {
  const cl::DeviceTraits gpu = cl::GpuTraits(132);
  EXPECT_EQ(cl::ExpertTileRows(gpu, 1, 9, 257, true), 8);
  EXPECT_EQ(cl::ExpertTileRows(gpu, 4096, 8, 256, false), 64);
  EXPECT_EQ(cl::ExpertTileRows(cl::CpuTraits(4), 4096, 8, 256, true), 8);
  cl::DeviceTraits hopper = gpu;
  hopper.nv_compute = 90;
  EXPECT_EQ(cl::ExpertTileRows(hopper, 4096, 8, 256, true), 128);
  EXPECT_EQ(cl::ExpertTileRows(hopper, 4096, 8, 256, false), 64);
}

INSTANTIATE_TEST_SUITE_P(Shapes, ExpertsTest,
                         ::testing::Values(Shapes::kCpu, Shapes::kGpu, Shapes::kOwn),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace tandem

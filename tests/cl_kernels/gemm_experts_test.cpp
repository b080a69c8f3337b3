// ctest: opencl
// Layers of experts with many rows on matrix units.
#include <algorithm>

#include "tests/support/gemm_fixture.h"

namespace tandem {
namespace {

using test::Download;
using test::FoldsScales;
using test::GemmTest;
using test::kGemmFormats;
using test::MakeWeight;
using test::RandomFloats;
using test::Reference;
using test::Rounded;
using test::RoundTurned;
using test::RoundWeights;
using test::TestWeight;
using test::TurnedPlace;
using test::Upload;
using test::WeightBlob;
using test::Worst;

// A layer of experts in two slabs, with pairs as Group lists them.
class Layer {
 public:
  static constexpr std::int64_t kT = 70;
  struct Widths {
    std::int64_t D = 512;
    std::int64_t F = 512;
    std::int64_t less_F = 256;  // of some experts
  };

  // `turned`: as where experts have few rows each.
  Layer(const ClDevice& device, bool folds_scales, DType gate_up, DType down, bool turned,
        const Widths& widths)
      : device_(device), folds_scales_(folds_scales), turned_(turned), D_(widths.D), F_(widths.F) {
    AddExpert(0, gate_up, down, F_, 5);
    AddExpert(1, gate_up, down, F_, 70);
    AddExpert(-1, gate_up, down, widths.less_F, 0);
    AddExpert(1, gate_up, down, widths.less_F, 64);
    AddExpert(0, gate_up, down, F_, 65);
    for (WeightBlob& blob : blobs_) slabs_.push_back(blob.Upload(device));
    x_ = RandomFloats(static_cast<std::size_t>(kT * D_), 21);
    weight_ = RandomFloats(row_.size(), 23);
    MakeTokenPairs();
  }

  ::testing::AssertionResult Run(cl::Programs& programs, DType gate_up, DType down) {
    const std::vector<cl_mem> slabs = {slabs_[0].get(), slabs_[1].get()};
    const std::vector<float> before = RandomFloats(static_cast<std::size_t>(kT * D_), 25);
    const auto pairs = static_cast<std::int64_t>(row_.size());
    const ClBuffer table = Upload(device_, table_);
    const ClBuffer tiles = Upload(device_, tiles_);
    const ClBuffer n_tiles =
        Upload(device_, std::vector<cl_int>{static_cast<cl_int>(tiles_.size())});
    const ClBuffer row = Upload(device_, row_);
    const ClBuffer weight = Upload(device_, weight_);
    const ClBuffer token_pairs = Upload(device_, token_pairs_);
    const ClBuffer x = Upload(device_, x_);
    const ClBuffer y = Upload(device_, before);
    const ClBuffer act = Upload(device_, std::vector<float>(static_cast<std::size_t>(pairs * F_)));
    const ClBuffer out = Upload(device_, std::vector<float>(static_cast<std::size_t>(pairs * D_)));
    const ClBuffer work =
        device_.Allocate(static_cast<std::size_t>(cl::GemmWorkFloats(kT, D_)) * 4);
    cl::ExpertsArgs a;
    a.slabs = slabs;
    a.gate_up = gate_up;
    a.down = down;
    a.D = D_;
    a.F = F_;
    a.table = {table.get(), 0};
    a.tiles = {tiles.get(), 0};
    a.n_tiles = {n_tiles.get(), 0};
    a.max_tiles = static_cast<std::int64_t>(tiles_.size()) + (turned_ ? 3 : 2);
    a.tile_rows = cl::kGemmTileRows;
    a.pair_row = {row.get(), 0};
    a.pair_weight = {weight.get(), 0};
    a.token_pairs = {token_pairs.get(), 0};
    a.T = kT;
    a.C = kC;
    a.x = {x.get(), 0};
    a.x_stride = D_;
    a.act = {act.get(), 0};
    a.pair_out = {out.get(), 0};
    a.y = {y.get(), 0};
    a.y_stride = D_;
    a.bf16 = true;
    a.work = {work.get(), 0};
    cl::LaunchExpertsGemm(programs, a);
    act_columns_ = cl::ExpertsActColumns(programs, a);
    if ((act_columns_ != 0) != turned_) return ::testing::AssertionFailure() << "the other form";
    const auto acts =
        Download<std::uint16_t>(device_, act, static_cast<std::size_t>(2 * pairs * F_));
    const auto sums = Download<float>(device_, out, static_cast<std::size_t>(pairs * D_));
    const auto result = CompareActs(acts);
    if (!result) return result;
    const auto downs = CompareDowns(acts, sums);
    if (!downs) return downs;
    return CompareY(Download<float>(device_, y, before.size()), before, sums);
  }

 private:
  static constexpr std::int64_t kC = 4;
  struct Expert {
    TestWeight gate, up, down;
    std::int64_t F = 0;
    std::int64_t first = 0;
    std::int64_t n = 0;
  };

  void AddExpert(int slab, DType gate_up, DType down, std::int64_t F, std::int64_t n) {
    const auto seed = static_cast<unsigned>(31 + 5 * experts_.size());
    Expert e{MakeWeight(gate_up, F, D_, seed),       MakeWeight(gate_up, F, D_, seed + 1),
             MakeWeight(down, D_, F, seed + 2),      F,
             static_cast<std::int64_t>(row_.size()), n};
    cl::ExpertEntry entry;
    if (slab >= 0) {
      const cl::Weight gate = blobs_[slab].Add(e.gate);
      const cl::Weight up = blobs_[slab].Add(e.up);
      const cl::Weight last = blobs_[slab].Add(e.down);
      entry = {gate.offset, gate.scale_offset, up.offset, up.scale_offset,
               last.offset, last.scale_offset, slab,      static_cast<cl_int>(F)};
    }
    for (TestWeight* w : {&e.gate, &e.up, &e.down}) {
      if (turned_ && w->dtype == DType::kQ4_K) {
        RoundTurned(w);
      } else {
        RoundWeights(w, folds_scales_);
      }
    }
    table_.push_back(entry);
    for (std::int64_t p = 0; p < n; p += cl::kGemmTileRows) {
      tiles_.push_back({static_cast<cl_int>(experts_.size()), static_cast<cl_int>(e.first + p),
                        static_cast<cl_int>(std::min(n - p, cl::kGemmTileRows)), 0});
    }
    for (std::int64_t p = 0; p < n; ++p) row_.push_back(static_cast<cl_int>((p * 37 + 11) % kT));
    experts_.push_back(std::move(e));
  }

  void MakeTokenPairs() {
    token_pairs_.assign(static_cast<std::size_t>(kT * kC), -1);
    std::vector<int> used(static_cast<std::size_t>(kT));
    for (std::size_t p = 0; p < row_.size(); ++p) {
      const auto t = static_cast<std::size_t>(row_[p]);
      if (used[t] < kC)
        token_pairs_[t * kC + static_cast<std::size_t>(used[t]++)] = static_cast<cl_int>(p);
    }
  }

  std::size_t ActAt(std::int64_t p, std::int64_t f) const {
    const std::int64_t row = act_columns_ == 0 ? F_ : (F_ + 63) / 64 * 64;
    return static_cast<std::size_t>(p * row + TurnedPlace(f, act_columns_));
  }

  static double Slack(const TestWeight& w) {
    const double c = 4 * test::DotFactor(w.cols);
    return BlockElements(w.dtype) == 256 ? c + 3 * 0x1p15 / static_cast<double>(w.cols) : c;
  }

  ::testing::AssertionResult CompareActs(const std::vector<std::uint16_t>& acts) const {
    Worst worst;
    constexpr double kEps = std::numeric_limits<float>::epsilon();
    for (const Expert& e : experts_) {
      for (std::int64_t p = e.first; p < e.first + e.n; ++p) {
        const float* const x =
            &x_[static_cast<std::size_t>(row_[static_cast<std::size_t>(p)] * D_)];
        for (std::int64_t f = 0; f < e.F; f += f % 16 == 5 ? 7 : 1) {
          Reference gate, up;
          for (std::int64_t k = 0; k < D_; ++k) {
            gate.Add(Rounded(x[k]), e.gate.values[static_cast<std::size_t>(f * D_ + k)]);
            up.Add(Rounded(x[k]), e.up.values[static_cast<std::size_t>(f * D_ + k)]);
          }
          const double weight = weight_[static_cast<std::size_t>(p)];
          const double silu = gate.value / (1 + std::exp(-gate.value));
          Reference want;
          want.value = weight * silu * up.value;
          want.size = std::fabs(weight) *
                      (1.1 * gate.size * std::fabs(up.value) + std::fabs(silu) * up.size);
          // The product is stored in bf16: half a unit of its last place.
          want.size += std::fabs(want.value) * 0x1p-8 / (kEps * Slack(e.gate));
          worst.See(Bf16ToF32(acts[ActAt(p, f)]), want, Slack(e.gate), p, f);
        }
      }
    }
    return worst.Verdict();
  }

  ::testing::AssertionResult CompareDowns(const std::vector<std::uint16_t>& acts,
                                          const std::vector<float>& sums) const {
    Worst worst;
    for (const Expert& e : experts_) {
      for (std::int64_t p = e.first; p < e.first + e.n; ++p) {
        for (std::int64_t d = 0; d < D_; d += d % 16 == 5 ? 7 : 1) {
          Reference want;
          for (std::int64_t f = 0; f < e.F; ++f) {
            want.Add(Bf16ToF32(acts[ActAt(p, f)]),
                     e.down.values[static_cast<std::size_t>(d * e.F + f)]);
          }
          worst.See(sums[static_cast<std::size_t>(p * D_ + d)], want, Slack(e.down), p, d);
        }
      }
    }
    return worst.Verdict();
  }

  ::testing::AssertionResult CompareY(const std::vector<float>& y, const std::vector<float>& before,
                                      const std::vector<float>& sums) const {
    Worst worst;
    for (std::int64_t t = 0; t < kT; ++t) {
      for (std::int64_t d = 0; d < D_; ++d) {
        Reference want;
        want.Add(before[static_cast<std::size_t>(t * D_ + d)], 1);
        for (std::int64_t c = 0; c < kC; ++c) {
          const cl_int p = token_pairs_[static_cast<std::size_t>(t * kC + c)];
          if (p >= 0) want.Add(sums[static_cast<std::size_t>(p * D_ + d)], 1);
        }
        worst.See(y[static_cast<std::size_t>(t * D_ + d)], want, 8, t, d);
      }
    }
    return worst.Verdict();
  }

  const ClDevice& device_;
  const bool folds_scales_;
  const bool turned_;
  const std::int64_t D_;
  const std::int64_t F_;
  std::int64_t act_columns_ = 0;
  std::vector<Expert> experts_;
  WeightBlob blobs_[2];
  std::vector<ClBuffer> slabs_;
  std::vector<cl::ExpertEntry> table_;
  std::vector<cl::ExpertTile> tiles_;
  std::vector<cl_int> row_, token_pairs_;
  std::vector<float> weight_, x_;
};

TEST_F(GemmTest, ExpertsInTwoSlabs) {
  NEEDS_MMA();
  const bool folds = FoldsScales(programs());
  const auto run = [&](cl::Programs& with, DType gate_up, DType down, bool turned,
                       const Layer::Widths& widths = {}) {
    const bool folded = folds && &with == &programs();
    EXPECT_TRUE(Layer(device(), folded, gate_up, down, turned, widths).Run(with, gate_up, down))
        << Name(gate_up) << " " << Name(down) << " turned " << turned;
  };
  for (const DType type : kGemmFormats) {
    run(programs(), type, type, false);
    if (type != DType::kBF16 && folds) run(programs(), type, type, true);
  }
  run(programs(), DType::kQ4_K, DType::kQ6_K, folds);
  run(programs(), DType::kF8E4M3, DType::kQ4_K, folds, {528, 512, 256});
  run(programs(), DType::kF8E4M3, DType::kF8E4M3, folds, {528, 176, 80});
  run(programs(), DType::kQ8_0, DType::kQ4_0, folds, {544, 224, 32});
  run(without_wgmma(), DType::kF8E4M3, DType::kF8E4M3, false);
}

}  // namespace
}  // namespace tandem

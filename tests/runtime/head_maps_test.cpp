// ctest: unit
// kv_b in one matrix and in two are the same maps.
#include "runtime/head_maps.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "placement/planner.h"
#include "tests/support/golden.h"

namespace tandem::test {
namespace {

// Serves a checkpoint whose kv_b matrices became f32, in one or as k_b and v_b.
class WideSource : public TensorSource {
 public:
  WideSource(const Config& c, std::shared_ptr<const TensorSource> base, const TensorList& tensors)
      : c_(c), base_(std::move(base)), tensors_(tensors) {}

  void Read(const TensorInfo& t, Piece piece, std::uint64_t offset,
            std::span<std::byte> dst) const override {
    if (t.part != Part::kKvB && t.part != Part::kKB && t.part != Part::kVB) {
      return base_->Read(t, piece, offset, dst);
    }
    const std::vector<float> values = Values(t);
    std::memcpy(dst.data(), reinterpret_cast<const std::byte*>(values.data()) + offset, dst.size());
  }

 private:
  std::vector<float> Joint(int layer) const {
    const TensorInfo& t = tensors_.Get(Role::kAttention, Part::kKvB, layer);
    std::vector<std::byte> raw(t.data.bytes);
    base_->Read(t, Piece::kData, 0, raw);
    std::vector<float> values(static_cast<std::size_t>(t.elements()));
    for (std::size_t i = 0; i < values.size(); ++i) {
      std::uint16_t bits;
      std::memcpy(&bits, raw.data() + 2 * i, 2);
      values[i] = Bf16ToF32(bits);
    }
    return values;
  }

  std::vector<float> Values(const TensorInfo& t) const {
    const std::vector<float> joint = Joint(t.layer);
    if (t.part == Part::kKvB) return joint;
    const std::int64_t R = c_.kv_lora_rank;
    const std::int64_t nope = c_.qk_nope_head_dim;
    const std::int64_t v = c_.v_head_dim;
    std::vector<float> values;
    for (std::int64_t h = 0; h < c_.num_attention_heads; ++h) {
      const float* head = joint.data() + h * (nope + v) * R;
      if (t.part == Part::kVB) values.insert(values.end(), head + nope * R, head + (nope + v) * R);
      if (t.part == Part::kVB) continue;
      for (std::int64_t r = 0; r < R; ++r) {
        for (std::int64_t n = 0; n < nope; ++n) values.push_back(head[n * R + r]);
      }
    }
    return values;
  }

  const Config& c_;
  std::shared_ptr<const TensorSource> base_;
  const TensorList& tensors_;
};

struct Wide {
  explicit Wide(const std::string& dir) : base(OpenCheckpoint(dir)) {}

  Model Open(bool split) const {
    const Config& c = base.config;
    std::vector<TensorInfo> tensors;
    for (const TensorInfo& t : base.tensors.all()) {
      if (t.part != Part::kKvB) {
        tensors.push_back(t);
        continue;
      }
      const std::int64_t H = c.num_attention_heads;
      const std::int64_t R = c.kv_lora_rank;
      if (split) {
        tensors.push_back(AsF32(t, Part::kKB, {H * R, c.qk_nope_head_dim}));
        tensors.push_back(AsF32(t, Part::kVB, {H * c.v_head_dim, R}));
      } else {
        tensors.push_back(AsF32(t, Part::kKvB, t.shape));
      }
    }
    Model model = base;
    model.tensors = TensorList(tensors);
    model.source = std::make_shared<WideSource>(base.config, base.source, base.tensors);
    return model;
  }

  static TensorInfo AsF32(TensorInfo t, Part part, std::vector<std::int64_t> shape) {
    t.part = part;
    t.shape = std::move(shape);
    t.dtype = DType::kF32;
    t.data.bytes = static_cast<std::uint64_t>(t.elements()) * sizeof(float);
    return t;
  }

  Model base;
};

std::vector<float> Logits(Model model, int nodes, Precision precision) {
  Machine machine = ReadMachine(ProbeDevices::kNo);
  Node node = machine.nodes[0];
  node.cores.resize(1);
  machine.nodes.assign(static_cast<std::size_t>(nodes), node);
  Profile profile = Placement("none");
  profile.threads.reset();
  profile.activation_type = DType::kF32;  // rounding would hide an error of the maps
  Plan plan = MakePlan(model.config, model.tensors, machine, profile, precision);
  Engine engine(std::move(model), std::move(plan));
  std::vector<std::int32_t> ids;
  for (std::int32_t i = 0; i < 40; ++i) ids.push_back(i * 37 % 300 + 5);
  auto logits = Prefill(engine, engine.NewSequence(), ids, 32);
  return logits;
}

TEST(HeadMaps, KvBInTwoPartsGivesTheSameLogits) {
  for (const char* name : {"v2-lite", "v3"}) {
    const Wide wide(GoldenDir(name));
    for (const Precision precision : {Precision::kExact, Precision::kFast}) {
      const auto joint = Logits(wide.Open(false), 1, precision);
      const auto split = Logits(wide.Open(true), 1, precision);
      const Difference worst = WorstDifference(joint, split);
      // The same sums in other orders; a coarser cache may magnify them to a step of its own.
      EXPECT_LE(worst.difference, precision == Precision::kExact ? 1e-4F : 2e-2F)
          << name << ": " << worst;
      EXPECT_EQ(split, Logits(wide.Open(true), 2, precision)) << name << " on two nodes";
    }
  }
}

}  // namespace
}  // namespace tandem::test

#include "runtime/weights.h"

#include <algorithm>

#include "memory/error.h"
#include "runtime/clock.h"
#include "runtime/weight_memory.h"
#include "runtime/weight_reader.h"

namespace tandem {
namespace {

float ToF32(DType type, const std::byte* p) {
  if (type == DType::kF32) return *reinterpret_cast<const float*>(p);
  const auto bits = *reinterpret_cast<const std::uint16_t*>(p);
  return type == DType::kBF16 ? Bf16ToF32(bits) : F16ToF32(bits);
}

std::vector<float> ReadVector(const Model& model, const TensorInfo* t) {
  if (t == nullptr) return {};
  std::vector<std::byte> raw(t->data.bytes);
  model.source->Read(*t, Piece::kData, 0, raw);
  std::vector<float> out(t->elements());
  const std::size_t step = BytesOf(t->dtype);
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = ToF32(t->dtype, raw.data() + i * step);
  return out;
}

// The norms and biases: small, kept as f32 on the host and copied to a device's one buffer for them
// where their layer runs there.
class VectorLoader {
 public:
  VectorLoader(const Model& model, const ClDevices& devices)
      : model_(model), devices_(devices), staged_(devices.size()) {}

  void Load(Vector& v, Role role, Part part, int layer, Place place) {
    if (v.host.empty()) v.host = ReadVector(model_, model_.tensors.Find(role, part, layer));
    v.device = {};
    if (!place.on_device() || v.host.empty()) return;
    Staged& staged = staged_[static_cast<std::size_t>(place.index)];
    v.device.offset = static_cast<std::int64_t>(staged.values.size());
    staged.values.insert(staged.values.end(), v.host.begin(), v.host.end());
    staged.values.resize((staged.values.size() + 63) / 64 * 64);
    staged.placed.push_back(&v);
  }

  // A buffer for each device, none where it needs none.
  std::vector<ClBuffer> Upload() const {
    std::vector<ClBuffer> buffers(devices_.size());
    for (std::size_t d = 0; d < devices_.size(); ++d) {
      const std::size_t bytes = staged_[d].values.size() * sizeof(float);
      if (bytes == 0) continue;
      buffers[d] = devices_[d]->Allocate(bytes, CL_MEM_READ_ONLY);
      devices_[d]->BlockingWrite(buffers[d].get(), 0, staged_[d].values.data(), bytes);
      for (Vector* v : staged_[d].placed) v->device.buffer = buffers[d].get();
    }
    return buffers;
  }

 private:
  struct Staged {
    std::vector<float> values;
    std::vector<Vector*> placed;
  };

  const Model& model_;
  const ClDevices& devices_;
  std::vector<Staged> staged_;
};

struct WantedPart {
  Matrix* matrix;
  Part part;
  std::int64_t row_unit = 1;
};

// Those of the parts that the model has: e.g. no q_a without a low-rank query.
std::vector<WantedMatrix> Present(const TensorList& tensors, Role role, int layer, int expert,
                                  const std::vector<WantedPart>& parts) {
  std::vector<WantedMatrix> present;
  for (const WantedPart& p : parts) {
    const TensorInfo* tensor = tensors.Find(role, p.part, layer, expert);
    if (tensor != nullptr) present.push_back({p.matrix, tensor, p.row_unit});
  }
  return present;
}

std::vector<WantedPart> MlpParts(MlpWeights& mlp) {
  return {{&mlp.gate, Part::kGate}, {&mlp.up, Part::kUp}, {&mlp.down, Part::kDown}};
}

// Heads that are not cut apart, so that k_b and v_b, cut at multiples of 128 rows, part alike.
std::int64_t HeadsOfCut(const Config& c) {
  std::int64_t heads = 1;
  while (heads * c.kv_lora_rank % kFp8Block != 0 || heads * c.v_head_dim % kFp8Block != 0) ++heads;
  return heads;
}

WeightContext ContextOf(const RowCut& cut, const Plan& plan, const ClDevices& devices) {
  WeightContext context{cut, {}};
  for (std::size_t d = 0; d < plan.devices.size(); ++d) {
    context.devices.push_back({devices.at(d), plan.devices[d].max_alloc_bytes});
  }
  return context;
}

}  // namespace

struct Weights::PlacedUnit {
  WeightUnit unit;
  std::function<Place(const Plan&)> place;
};

Weights::Weights() = default;
Weights::~Weights() = default;

Weights::Weights(const Model& model, const Plan& plan, const ClDevices& devices,
                 ProgressSink* progress)
    : layers(plan.layers.size()), model_(&model), cut_(std::make_unique<RowCut>(plan)) {
  BuildUnits();
  Move(plan, devices, progress);
}

void Weights::BuildUnits() {
  const TensorList& tensors = model_->tensors;
  const Config& c = model_->config;
  const auto add = [&](Role role, int layer, const std::vector<WantedPart>& parts, auto place) {
    units_.push_back({WeightUnit(Present(tensors, role, layer, -1, parts)), place});
  };
  add(Role::kEmbedding, -1, {{&embedding, Part::kEmbed}},
      [](const Plan& p) { return p.embedding; });
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const auto layer = static_cast<int>(i);
    LayerWeights& w = layers[i];
    AttentionWeights& a = w.attention;
    const std::int64_t head_rows = c.qk_nope_head_dim + c.v_head_dim;  // these stay together
    const std::int64_t heads = HeadsOfCut(c);
    add(Role::kAttention, layer,
        {{&a.q, Part::kQ},
         {&a.q_a, Part::kQA},
         {&a.q_b, Part::kQB},
         {&a.kv_a, Part::kKvA},
         {&a.kv_b, Part::kKvB, head_rows},
         {&a.k_b, Part::kKB, heads * c.kv_lora_rank},
         {&a.v_b, Part::kVB, heads * c.v_head_dim},
         {&a.k, Part::kK},
         {&a.v, Part::kV},
         {&a.o, Part::kO}},
        [i](const Plan& p) { return p.layers[i].attention; });
    add(Role::kDense, layer, MlpParts(w.dense), [i](const Plan& p) { return p.layers[i].dense; });
    add(Role::kRouter, layer, {{&w.router, Part::kRouterWeight}},
        [i](const Plan& p) { return p.layers[i].router; });
    add(Role::kShared, layer, MlpParts(w.shared),
        [i](const Plan& p) { return p.layers[i].shared; });
    w.experts.resize(c.IsMoeLayer(layer) ? c.n_routed_experts : 0);
    std::vector<std::vector<WantedMatrix>> experts;
    for (std::size_t e = 0; e < w.experts.size(); ++e) {
      experts.push_back(
          Present(tensors, Role::kRouted, layer, static_cast<int>(e), MlpParts(w.experts[e])));
    }
    experts_.emplace_back(std::move(experts));
  }
  add(Role::kHead, -1, {{&lm_head, Part::kLmHead}}, [](const Plan& p) { return p.head; });
}

void Weights::Move(const Plan& next, const ClDevices& devices, ProgressSink* progress) {
  const double start = Now();
  Release(next, devices);
  std::vector<LoadTask> tasks;
  Fill(next, devices, tasks);
  loaded_bytes_ = ReadWeights(*model_->source, tasks, devices, "loading " + model_->name, progress);
  LoadVectors(next, devices);
  load_s_ = Now() - start;
}

// All that leaves goes before anything comes: the two plans may not fit side by side.
void Weights::Release(const Plan& next, const ClDevices& devices) {
  TANDEM_CHECK(RowCut(next) == *cut_);
  const WeightContext context = ContextOf(*cut_, next, devices);
  for (PlacedUnit& u : units_) u.unit.Release(u.place(next));
  for (std::size_t i = 0; i < experts_.size(); ++i) {
    experts_[i].Release(next.layers[i].experts, context);
  }
}

void Weights::ForgetDevices() {
  for (PlacedUnit& u : units_) u.unit.ForgetDevice();
  for (ExpertSlots& e : experts_) e.ForgetDevices();
  device_vectors_.clear();
}

void Weights::Fill(const Plan& next, const ClDevices& devices, std::vector<LoadTask>& tasks) {
  const WeightContext context = ContextOf(*cut_, next, devices);
  for (PlacedUnit& u : units_) u.unit.Fill(u.place(next), context, tasks);
  for (std::size_t i = 0; i < experts_.size(); ++i) {
    experts_[i].Fill(next.layers[i].experts, context, tasks);
  }
}

void Weights::LoadVectors(const Plan& plan, const ClDevices& devices) {
  VectorLoader loader(*model_, devices);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const auto layer = static_cast<int>(i);
    const LayerPlan& p = plan.layers[i];
    AttentionWeights& a = layers[i].attention;
    loader.Load(a.input_norm, Role::kAttention, Part::kInputNorm, layer, p.attention);
    loader.Load(a.q_a_norm, Role::kAttention, Part::kQANorm, layer, p.attention);
    loader.Load(a.kv_a_norm, Role::kAttention, Part::kKvANorm, layer, p.attention);
    loader.Load(layers[i].post_norm, Role::kDense, Part::kPostNorm, layer,
                p.moe ? p.router : p.dense);
    loader.Load(layers[i].router_bias, Role::kRouter, Part::kRouterBias, layer, p.router);
  }
  loader.Load(final_norm, Role::kHead, Part::kFinalNorm, -1, plan.head);
  device_vectors_.clear();
  device_vectors_ = loader.Upload();
}

std::vector<DType> Weights::DeviceFormats(Place device) const {
  std::vector<DType> formats;
  const auto add = [&](const Matrix& m) {
    if (!m || m.place != device) return;
    if (std::ranges::find(formats, m.dtype()) == formats.end()) formats.push_back(m.dtype());
  };
  const auto add_mlp = [&](const MlpWeights& mlp) {
    for (const Matrix* m : {&mlp.gate, &mlp.up, &mlp.down}) add(*m);
  };
  for (const LayerWeights& w : layers) {
    const AttentionWeights& a = w.attention;
    for (const Matrix* m :
         {&a.q, &a.q_a, &a.q_b, &a.kv_a, &a.kv_b, &a.k_b, &a.v_b, &a.k, &a.v, &a.o, &w.router}) {
      add(*m);
    }
    add_mlp(w.dense);
    add_mlp(w.shared);
    for (const MlpWeights& expert : w.experts) add_mlp(expert);
  }
  add(lm_head);
  return formats;
}

std::uint64_t Weights::host_bytes() const {
  std::uint64_t bytes = 0;
  for (const PlacedUnit& u : units_) bytes += u.unit.host_bytes();
  for (const ExpertSlots& e : experts_) bytes += e.host_bytes();
  return bytes;
}

std::uint64_t Weights::device_bytes(int device) const {
  std::uint64_t bytes = device_vectors_.at(static_cast<std::size_t>(device)).bytes();
  for (const PlacedUnit& u : units_) bytes += u.unit.device_bytes(device);
  for (const ExpertSlots& e : experts_) bytes += e.device_bytes(device);
  return bytes;
}

}  // namespace tandem

#include "runtime/weights.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <thread>

#include "memory/error.h"
#include "runtime/weight_layout.h"

namespace tandem {
namespace {

constexpr unsigned kMaxReaders = 16;

// Works through the tasks with several threads. The first failure, or a cancel, stops all of them.
class Reader {
 public:
  Reader(const TensorSource& source, const std::vector<LoadTask>& tasks, const ClDevice* device,
         ProgressSink* progress)
      : source_(source), tasks_(tasks), device_(device), progress_(progress) {}

  void Run() {
    const unsigned n = std::clamp(std::thread::hardware_concurrency(), 1U, kMaxReaders);
    std::vector<std::jthread> threads;
    for (unsigned i = 0; i < n; ++i) threads.emplace_back([this] { Work(); });
    threads.clear();
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  void Work() {
    try {
      std::vector<std::byte> staging;
      for (std::size_t i = next_++; i < tasks_.size() && !stop_; i = next_++) {
        ReadOne(tasks_[i], staging);
        const std::uint64_t done = done_ += tasks_[i].bytes;
        if (progress_ == nullptr) continue;
        progress_->Update(done);
        if (progress_->Cancelled()) throw Error(ExitCode::kIo, "loading was interrupted");
      }
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
      stop_ = true;
    }
  }

  void ReadOne(const LoadTask& task, std::vector<std::byte>& staging) const {
    if (task.host != nullptr) {
      return source_.Read(*task.tensor, task.piece, task.offset, {task.host, task.bytes});
    }
    staging.resize(std::max<std::size_t>(staging.size(), task.bytes));
    source_.Read(*task.tensor, task.piece, task.offset, {staging.data(), task.bytes});
    device_->BlockingWrite(task.device, task.device_offset, staging.data(), task.bytes);
  }

  const TensorSource& source_;
  const std::vector<LoadTask>& tasks_;
  const ClDevice* device_;
  ProgressSink* progress_;
  std::atomic<std::size_t> next_{0};
  std::atomic<std::uint64_t> done_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::exception_ptr failure_;
};

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

// Reads the norms and biases: small, kept as f32 on the host and copied to the device's one buffer
// for them where their layer runs there.
class VectorLoader {
 public:
  VectorLoader(const Model& model, std::uint64_t& loaded) : model_(model), loaded_(loaded) {}

  void Load(Vector& v, Role role, Part part, int layer, Place place) {
    const TensorInfo* t = model_.tensors.Find(role, part, layer);
    v.host = ReadVector(model_, t);
    if (t != nullptr) loaded_ += t->data.bytes;
    if (place.on_device() && !v.host.empty()) {
      v.device.offset = static_cast<std::int64_t>(staged_.size());
      staged_.insert(staged_.end(), v.host.begin(), v.host.end());
      staged_.resize((staged_.size() + 63) / 64 * 64);
      placed_.push_back(&v);
    }
  }

  ClBuffer Upload(const ClDevice* device) {
    if (staged_.empty()) return {};
    ClBuffer buffer = device->Allocate(staged_.size() * sizeof(float), CL_MEM_READ_ONLY);
    device->BlockingWrite(buffer.get(), 0, staged_.data(), staged_.size() * sizeof(float));
    for (Vector* v : placed_) v->device.buffer = buffer.get();
    return buffer;
  }

 private:
  const Model& model_;
  std::uint64_t& loaded_;
  std::vector<float> staged_;
  std::vector<Vector*> placed_;
};

void LoadVectors(VectorLoader& loader, const Plan& plan, Weights& w) {
  for (std::size_t i = 0; i < w.layers.size(); ++i) {
    const auto layer = static_cast<int>(i);
    const LayerPlan& p = plan.layers[i];
    AttentionWeights& a = w.layers[i].attention;
    loader.Load(a.input_norm, Role::kAttention, Part::kInputNorm, layer, p.attention);
    loader.Load(a.q_a_norm, Role::kAttention, Part::kQANorm, layer, p.attention);
    loader.Load(a.kv_a_norm, Role::kAttention, Part::kKvANorm, layer, p.attention);
    loader.Load(w.layers[i].post_norm, Role::kDense, Part::kPostNorm, layer,
                p.moe ? p.router : p.dense);
    loader.Load(w.layers[i].router_bias, Role::kRouter, Part::kRouterBias, layer, p.router);
  }
  loader.Load(w.final_norm, Role::kHead, Part::kFinalNorm, -1, plan.head);
}

}  // namespace

Weights::Weights(const Model& model, const Plan& plan, const ClDevice* device,
                 ProgressSink* progress) {
  const auto start = std::chrono::steady_clock::now();
  WeightLayout layout(model, plan, device, *this);
  for (const LoadTask& task : layout.tasks) loaded_bytes_ += task.bytes;
  if (progress != nullptr) progress->Begin("loading " + model.name, loaded_bytes_);
  Reader(*model.source, layout.tasks, device, progress).Run();
  VectorLoader loader(model, loaded_bytes_);
  LoadVectors(loader, plan, *this);
  device_vectors_ = loader.Upload(device);
  load_s_ = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (progress != nullptr) progress->End();
}

}  // namespace tandem

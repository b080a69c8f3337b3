#include "runtime/weight_reader.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>

#include "cpu_kernels/panel.h"
#include "memory/error.h"
#include "memory/split_layout.h"

namespace tandem {
namespace {

constexpr unsigned kMaxReaders = 16;

// Memory that copies to a device may still be reading from after a wait that was given up.
struct Staging {
  Staging() : bytes(std::make_unique<std::vector<std::byte>>()) {}
  ~Staging() {
    if (AnyClDeviceHangs()) static_cast<void>(bytes.release());
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  std::unique_ptr<std::vector<std::byte>> bytes;
};

// Works through the tasks with several threads. The first failure, or a cancel, stops all of them.
class Reader {
 public:
  Reader(const TensorSource& source, const std::vector<LoadTask>& tasks, const ClDevices& devices,
         ProgressSink* progress)
      : source_(source), tasks_(tasks), devices_(devices), progress_(progress) {}

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
      Staging read, split;
      for (std::size_t i = next_++; i < tasks_.size() && !stop_; i = next_++) {
        ReadOne(tasks_[i], *read.bytes, *split.bytes);
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

  void ReadOne(const LoadTask& task, std::vector<std::byte>& staging,
               std::vector<std::byte>& split) const {
    if (task.host != nullptr && task.pack_rows == 0) {
      return source_.Read(*task.tensor, task.piece, task.offset, {task.host, task.bytes});
    }
    staging.resize(std::max<std::size_t>(staging.size(), task.bytes));
    source_.Read(*task.tensor, task.piece, task.offset, {staging.data(), task.bytes});
    if (task.pack_rows > 0) {
      const TensorInfo& t = *task.tensor;
      return cpu::PackPanels(t.dtype, staging.data(), task.pack_rows, t.cols(), task.host);
    }
    if (task.split_rows > 0) return WriteSplit(task, staging, split);
    DeviceOf(task).BlockingWrite(task.device, task.device_offset, staging.data(), task.bytes);
  }

  const ClDevice& DeviceOf(const LoadTask& task) const {
    return *devices_[static_cast<std::size_t>(task.device_index)];
  }

  void WriteSplit(const LoadTask& task, const std::vector<std::byte>& blocks,
                  std::vector<std::byte>& split) const {
    const TensorInfo& t = *task.tensor;
    const SplitRow row = SplitRowOf(t.dtype, t.cols());
    const auto rows = static_cast<std::uint64_t>(task.split_rows);
    split.resize(rows * (row.data + row.side[0] + row.side[1] + row.side[2]));
    std::array<std::byte*, 3> side{};
    std::byte* next = split.data() + rows * row.data;
    for (int i = 0; i < 3; ++i) {
      side[i] = next;
      next += rows * row.side[i];
    }
    SplitBlocks(t.dtype, blocks.data(), task.split_rows, t.cols(), split.data(), side);
    const ClDevice& device = DeviceOf(task);
    device.BlockingWrite(task.device, task.device_offset, split.data(), rows * row.data);
    for (int i = 0; i < 3; ++i) {
      device.BlockingWrite(task.device, task.side_offset[i], side[i], rows * row.side[i]);
    }
  }

  const TensorSource& source_;
  const std::vector<LoadTask>& tasks_;
  const ClDevices& devices_;
  ProgressSink* progress_;
  std::atomic<std::size_t> next_{0};
  std::atomic<std::uint64_t> done_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::exception_ptr failure_;
};

}  // namespace

std::uint64_t ReadWeights(const TensorSource& source, const std::vector<LoadTask>& tasks,
                          const ClDevices& devices, const std::string& what,
                          ProgressSink* progress) {
  std::uint64_t bytes = 0;
  for (const LoadTask& task : tasks) bytes += task.bytes;
  if (progress != nullptr) progress->Begin(what, bytes);
  Reader(source, tasks, devices, progress).Run();
  if (progress != nullptr) progress->End();
  return bytes;
}

}  // namespace tandem

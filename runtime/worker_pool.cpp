#include "runtime/worker_pool.h"

#include <omp.h>
#include <pthread.h>
#include <sched.h>

#include "memory/error.h"

namespace tandem {
namespace {

// One pause takes 40 to 140 cycles on current cores: about 25 of them are a microsecond.
constexpr int kPausesPerMicrosecond = 25;

void Pause() { __builtin_ia32_pause(); }

void PinTo(int core) {
  if (core < 0) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  // A refusal (a cpuset that shrank since planning) costs speed only.
  static_cast<void>(pthread_setaffinity_np(pthread_self(), sizeof(set), &set));
}

}  // namespace

WorkerPool::WorkerPool(const std::vector<PlanNode>& nodes, int spin_us)
    : spins_(spin_us * kPausesPerMicrosecond) {
  n_nodes_ = static_cast<int>(nodes.size());
  for (int node = 0; node < n_nodes_; ++node) {
    const auto count = static_cast<int>(nodes[node].cores.size());
    size_of_node_.push_back(count);
    for (int i = 0; i < count; ++i) {
      workers_.push_back({size(), 0, node, i, count});
      cores_.push_back(nodes[node].cores[i]);
    }
  }
  for (Worker& w : workers_) w.count = size();
  if (size() > 1) StartTeam();
}

WorkerPool::~WorkerPool() {
  if (!team_.joinable()) return;
  stop_.store(true, std::memory_order_relaxed);
  HandOut();
  WaitForWorkers();  // before the join, so that ThreadSanitizer sees what libgomp does not show it
  team_.join();
}

void WorkerPool::Team() {
  const int wanted = size() - 1;
  omp_set_dynamic(0);
#pragma omp parallel num_threads(wanted)
  {
    const int got = omp_get_num_threads();
    if (omp_get_thread_num() == 0) {
      team_size_.store(got, std::memory_order_release);
      team_size_.notify_all();
    }
    if (got == wanted) Loop(omp_get_thread_num() + 1);
  }
}

void WorkerPool::StartTeam() {
  team_ = std::thread([this] { Team(); });
  team_size_.wait(0, std::memory_order_acquire);
  const int got = team_size_.load(std::memory_order_acquire);
  if (got == size() - 1) return;
  team_.join();
  Throw<SystemError>(
      "CPU team: {} threads asked for, {} could be started; raise the limit on "
      "processes or lower --threads",
      size(), got + 1);
}

void WorkerPool::WaitWhile(const std::atomic<std::uint32_t>& value, std::uint32_t old) const {
  for (int i = 0; i < spins_; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    Pause();
  }
  while (value.load(std::memory_order_acquire) == old) value.wait(old, std::memory_order_acquire);
}

void WorkerPool::Loop(int index) {
  PinTo(cores_[index]);
  std::uint32_t seen = 0;
  while (true) {
    WaitWhile(epoch_, seen);
    ++seen;
    const bool stop = stop_.load(std::memory_order_relaxed);
    if (!stop) call_(fn_, workers_[index]);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_all();
    if (stop) return;
  }
}

void WorkerPool::HandOut() {
  running_.store(static_cast<std::uint32_t>(size() - 1), std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
}

void WorkerPool::WaitForWorkers() {
  for (std::uint32_t left = running_.load(std::memory_order_acquire); left != 0;
       left = running_.load(std::memory_order_acquire)) {
    WaitWhile(running_, left);
  }
}

void WorkerPool::RunErased(Erased call, void* fn) {
  call_ = call;
  fn_ = fn;
  if (size() > 1) HandOut();
  call(fn, workers_[0]);
  WaitForWorkers();
}

void WorkerPool::Barrier() {
  const auto all = static_cast<std::uint32_t>(size());
  if (all == 1) return;
  const std::uint32_t phase = phase_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == all) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.fetch_add(1, std::memory_order_release);
    phase_.notify_all();
  } else {
    WaitWhile(phase_, phase);
  }
}

struct WorkerPool::CallerPin::Saved {
  cpu_set_t set;
};

WorkerPool::CallerPin::CallerPin(const WorkerPool& pool) {
  auto saved = std::make_unique<Saved>();
  if (pthread_getaffinity_np(pthread_self(), sizeof(saved->set), &saved->set) != 0) return;
  saved_ = std::move(saved);
  PinTo(pool.cores_[0]);
}

WorkerPool::CallerPin::~CallerPin() {
  if (saved_) pthread_setaffinity_np(pthread_self(), sizeof(saved_->set), &saved_->set);
}

}  // namespace tandem

#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

#include "placement/plan.h"

namespace tandem {

// Who is calling, inside WorkerPool::Run.
struct Worker {
  int index = 0;  // over all nodes
  int count = 1;
  int node = 0;  // position in Plan::nodes
  int index_in_node = 0;
  int count_in_node = 1;
};

// The one home of parallelism on the CPU: a persistent OpenMP team with one pinned thread per core
// of the plan, plus the caller, which works as worker 0. Workers wait by spinning for microseconds
// and then sleep, so handing out work costs about a microsecond while steps follow each other, and
// an idle engine costs nothing. One thread calls Run at a time.
class WorkerPool {
 public:
  // spin_us: how long a waiting worker spins before it sleeps. Small where an OpenCL device shares
  // the cores: a team that spins starves it.
  WorkerPool(const std::vector<PlanNode>& nodes, int spin_us);
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()); }
  int nodes() const { return n_nodes_; }
  int size_of_node(int node) const { return size_of_node_[node]; }

  // Calls fn(worker) on every worker, once each, and returns when all are done. fn must not throw.
  template <class Fn>
  void Run(Fn&& fn) {
    RunErased([](void* f, const Worker& w) { (*static_cast<std::remove_reference_t<Fn>*>(f))(w); },
              const_cast<void*>(static_cast<const void*>(&fn)));
  }

  // Inside Run: waits until all workers are here.
  void Barrier();

  // Pins the calling thread (worker 0) to its core for as long as the guard lives.
  class CallerPin {
   public:
    explicit CallerPin(const WorkerPool& pool);
    ~CallerPin();
    CallerPin(const CallerPin&) = delete;
    CallerPin& operator=(const CallerPin&) = delete;

   private:
    struct Saved;
    std::unique_ptr<Saved> saved_;
  };

 private:
  using Erased = void (*)(void*, const Worker&);
  void RunErased(Erased call, void* fn);
  void Team();
  void StartTeam();
  void Loop(int index);
  void HandOut();         // wakes the workers, each to count itself out of running_
  void WaitForWorkers();  // until all have
  void WaitWhile(const std::atomic<std::uint32_t>& value, std::uint32_t old) const;

  std::vector<Worker> workers_;
  std::vector<int> cores_;  // of each worker; -1: not pinned
  std::vector<int> size_of_node_;
  int n_nodes_ = 1;
  int spins_ = 0;

  alignas(64) std::atomic<std::uint32_t> epoch_{0};
  alignas(64) std::atomic<std::uint32_t> running_{0};
  alignas(64) std::atomic<std::uint32_t> arrived_{0};
  alignas(64) std::atomic<std::uint32_t> phase_{0};
  std::atomic<bool> stop_{false};
  std::atomic<int> team_size_{0};  // 0 until the OpenMP region is open
  Erased call_ = nullptr;
  void* fn_ = nullptr;
  std::thread team_;  // opens the OpenMP region and lives in it
};

// Hands out tickets 0, 1, 2, ... to the workers of one node; on a cache line of its own.
struct alignas(64) TicketCounter {
  std::atomic<std::int64_t> next{0};
  std::int64_t Take() { return next.fetch_add(1, std::memory_order_relaxed); }
  void Reset() { next.store(0, std::memory_order_relaxed); }
};

}  // namespace tandem

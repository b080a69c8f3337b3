// What it costs to pass a MoE layer to the host and back when the host has nothing to do.
#include <fmt/format.h>

#include <exception>
#include <memory>
#include <thread>

#include "memory/cl_shared.h"
#include "runtime/bench_kernels_cases.h"
#include "runtime/hand_over.h"

namespace tandem {
namespace {

constexpr int kLayers = 32;  // of a step
constexpr std::int64_t kChosen = 8;

class EmptySteps {
 public:
  EmptySteps(BenchMemory& memory, cl::Kernels& kernels, HandOverKind kind, std::int64_t D)
      : device_(memory.device()),
        D_(D),
        x_(memory.Values(D)),
        choice_(memory.Values(kChosen)),
        hand_over_(MakeHandOver(device_, kernels, {D, kChosen, 1}, kind)) {}

  void Run(int layers) {
    for (int done = 0; done < layers; done += kLayers) Step(std::min(kLayers, layers - done));
  }

 private:
  void Step(int layers) {
    hand_over_->BeginStep(1);
    std::exception_ptr problem;
    // Where enqueuing throws, the other side ends by its own time limit.
    std::jthread computing([&] { Compute(layers, problem); });
    for (int l = 0; l < layers; ++l) {
      hand_over_->Publish(All(x_), All(choice_), All(choice_));
      hand_over_->Take(All(x_), D_);
    }
    device_.Flush();
    computing.join();
    device_.Finish();
    if (problem) std::rethrow_exception(problem);
    hand_over_->EndStep();
  }

  void Compute(int layers, std::exception_ptr& problem) {
    try {
      for (int l = 0; l < layers; ++l) {
        hand_over_->Await();
        hand_over_->Deliver();
      }
    } catch (...) {
      problem = std::current_exception();
      hand_over_->Abandon();
    }
  }

  const ClDevice& device_;
  std::int64_t D_;
  ClBuffer x_, choice_;
  std::unique_ptr<HandOver> hand_over_;
};

KernelCase HandOverCase(BenchMemory& memory, HandOverKind kind, std::int64_t D) {
  KernelCase c;
  c.kernel = "hand_over";
  c.shape = fmt::format("1 row of {}, {}", D, Name(kind));
  c.format = Name(DType::kF32);
  c.has_second = false;  // the order of its writes is a matter of the vendor's fences
  c.prepare = [=, &memory](cl::Kernels& kernels) -> KernelRun {
    const auto steps = std::make_shared<EmptySteps>(memory, kernels, kind, D);
    return [steps](int calls) { steps->Run(calls); };
  };
  return c;
}

std::string WhyNotPolled(const ClDevice& device) {
  if (device.info().is_cpu) return "a kernel that waits would hold the cores that it waits for";
  if (ClSharedBuffer::Allocate(device, 64)) return {};
  return "the device has no memory that both sides see while kernels run";
}

}  // namespace

std::vector<KernelCase> HandOverCases(const KernelGrid& grid, BenchMemory& memory) {
  std::vector<KernelCase> cases;
  for (const HandOverKind kind : {HandOverKind::kPolled, HandOverKind::kEvents}) {
    for (const std::int64_t D : grid.widths) {
      cases.push_back(HandOverCase(memory, kind, D));
      if (kind == HandOverKind::kPolled) cases.back().left_out = WhyNotPolled(memory.device());
    }
  }
  return cases;
}

}  // namespace tandem

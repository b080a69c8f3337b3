#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "cl_kernels/kernels.h"
#include "runtime/self_test.h"

namespace tandem {

using Floats = std::vector<float>;
using Doubles = std::vector<double>;

constexpr std::size_t Size(std::int64_t n) { return static_cast<std::size_t>(n); }

// Sums of some hundred f32 values are exact to 1e-7 each, 1e-13 squared; exp and sums of sums add
// to that. Rounding to bf16 errs by 2^-9 at the most, 2^-18 / 3 = 1.3e-6 squared on average, in x,
// weights and results. A wrong value of a thousand gives 1e-3.
inline constexpr double kFloatBound = 1e-10;
inline constexpr double kBf16Bound = 3e-5;
inline constexpr double kF8Bound = 2e-3;  // x has four bits: 6e-4 on average

// A matrix as the device has it, and what its values are.
struct TestMatrix {
  ClBuffer buffer;
  cl::Weight weight;
  Doubles values;
};

struct TestExpert {
  TestMatrix gate, up, down;
};

// What all cases share: the device, random numbers, and the rows of the result.
class SelfTestCases {
 public:
  SelfTestCases(cl::Kernels& kernels, unsigned seed) : kernels_(kernels), random_(seed) {}

  void Products(DType format, bool bf16);
  void ProductsInF8();
  void Experts(DType format, bool bf16);
  void Panels(DType format);
  void Mla(DType kv_type, const std::vector<DType>& formats, bool bf16);
  void Heads(DType kv_type);  // attention over keys of several heads
  void Router();
  void RowWise();
  void HandOver();
  void Feed();

  std::vector<SelfTestRow> TakeRows() { return std::move(rows_); }

 private:
  struct ExpertsShape;
  struct ExpertsRun;
  struct MlaShape;
  struct MlaRun;

  const ClDevice& device() const { return kernels_.device(); }
  Floats Random(std::int64_t n, float size = 1);
  template <class T>
  ClBuffer Upload(const std::vector<T>& values) const {
    ClBuffer buffer = device().Allocate(values.size() * sizeof(T));
    device().BlockingWrite(buffer.get(), 0, values.data(), buffer.bytes());
    return buffer;
  }
  // NaN, so that what a kernel leaves out shows.
  ClBuffer Results(std::int64_t n) const;
  template <class T = float>
  std::vector<T> Download(const ClBuffer& buffer, std::int64_t n) const {
    std::vector<T> values(Size(n));
    device().BlockingRead(buffer.get(), 0, values.data(), values.size() * sizeof(T));
    return values;
  }
  TestMatrix MakeMatrix(DType format, std::int64_t rows, std::int64_t cols);
  void Add(std::string family, std::string shape, DType format, double bound, const Doubles& want,
           const Floats& got);

  void Product(const TestMatrix& matrix, std::int64_t T, bool bf16, bool fp8 = false);
  ExpertsRun MakeExperts(const ExpertsShape& shape, DType format);
  Floats RunExperts(const ExpertsShape& shape, const ExpertsRun& run, DType format, bool bf16);
  void ExpertsOf(const ExpertsShape& shape, DType format, bool bf16);
  void MlaOf(const MlaShape& shape, DType kv_type, DType format, bool bf16);
  MlaRun MakeMla(const MlaShape& shape, DType format);
  Floats RunMla(const MlaShape& shape, const MlaRun& run, DType kv_type, bool bf16);
  Floats RunExpanded(const MlaShape& shape, const cl::MlaQueryArgs& query,
                     const cl::MlaAttentionArgs& attention);
  void PublishAndTake(std::int64_t T, std::int64_t D);
  void AddDelivered(bool came);
  void FeedStep(std::int64_t T, std::int64_t D, bool come);
  void PublishLargest();
  void RmsNorm();
  void Rope();
  void Swiglu();
  void Sum();
  void Largest();

  cl::Kernels& kernels_;
  std::mt19937 random_;
  std::vector<SelfTestRow> rows_;
};

}  // namespace tandem

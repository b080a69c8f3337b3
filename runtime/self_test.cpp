#include "runtime/self_test.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>

#include "cl_kernels/device_traits.h"
#include "cl_kernels/program_cache.h"
#include "cl_kernels/program_sources.h"
#include "memory/error.h"
#include "memory/split_layout.h"
#include "runtime/self_test_cases.h"

namespace tandem {
namespace {

constexpr int kTestNumber = 4;  // raise when the test tests more than before

std::string Names(const std::vector<DType>& types) {
  std::string names;
  for (const DType type : types) names += fmt::format(" {}", Name(type));
  return names;
}

// All that the verdict depends on.
std::string KeyOf(const cl::Kernels& kernels, const SelfTestScope& scope) {
  const ClDeviceInfo& info = kernels.device().info();
  std::string text;
  for (const cl::Program program : cl::kPrograms) text += cl::TextOf(program);
  return fmt::format(
      "self-test {}\ndevice {}\nvendor {}\ndriver {}\nplatform {} {}\npci {}\noptions {}\n"
      "shapes {}\nprograms {:016x}\nformats{}\npanels{}\nkv{}\n{} {} {} {} {} {} {}\n",
      kTestNumber, info.name, info.vendor, info.driver_version, info.platform,
      info.platform_version, info.pci_address, kernels.traits().Options(),
      fmt::join(kernels.shapes().changes, ","), std::hash<std::string>()(text),
      Names(scope.formats), Names(scope.panel_formats), Names(scope.kv_types), scope.mla,
      scope.heads, scope.experts, scope.bf16, scope.hand_over, scope.feed, scope.fp8);
}

std::vector<DType> OnDevices(const std::vector<DType>& formats) {
  std::vector<DType> taken;
  for (const DType format : formats) {
    if (IsDeviceFormat(format)) taken.push_back(format);
  }
  return taken;
}

}  // namespace

double NormalizedError(std::span<const double> want, std::span<const float> got) {
  if (want.size() != got.size()) return std::numeric_limits<double>::quiet_NaN();
  double difference = 0;
  double size = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    difference += std::pow(static_cast<double>(got[i]) - want[i], 2);
    size += std::pow(want[i], 2);
  }
  return difference == 0 ? 0 : difference / size;
}

SelfTestScope WholeScope() {
  SelfTestScope scope;
  for (int i = 0; i < kNumWeightFormats; ++i) {
    const auto format = static_cast<DType>(i);
    if (!IsDeviceFormat(format)) continue;
    scope.formats.push_back(format);
    if (IsBlockFormat(format)) scope.panel_formats.push_back(format);
  }
  scope.kv_types = {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3};
  return scope;
}

SelfTestScope ScopeOf(const Weights& weights, const Plan& plan, int device,
                      const std::vector<DType>& formats) {
  SelfTestScope scope{
      formats, {}, {}, false, false, false, plan.bf16_many_rows, false, false, plan.f8_many_rows};
  const bool copies = device == 0 && (plan.stream_prefill || plan.cache.slots > 0);
  for (std::size_t i = 0; i < plan.layers.size(); ++i) {
    const LayerPlan& layer = plan.layers[i];
    const LayerWeights& w = weights.layers[i];
    if (layer.attention == Place::Device(device))
      (w.attention.kv_a ? scope.mla : scope.heads) = true;
    for (std::size_t e = 0; e < w.experts.size(); ++e) {
      if (layer.experts[e] == Place::Device(device) || copies) scope.experts = true;
      if (device == 0) scope.hand_over = true;
      if (!copies || layer.experts[e].on_device()) continue;
      for (const Matrix* m : {&w.experts[e].gate, &w.experts[e].up, &w.experts[e].down}) {
        const bool known = std::ranges::count(scope.panel_formats, m->dtype()) > 0;
        if (IsBlockFormat(m->dtype()) && !known) scope.panel_formats.push_back(m->dtype());
      }
    }
  }
  if (scope.mla || scope.heads) scope.kv_types = {plan.kv_type};
  return scope;
}

std::vector<SelfTestRow> RunSelfTest(cl::Kernels& kernels, const SelfTestScope& scope,
                                     unsigned seed, const SelfTestStage& stage) {
  SelfTestCases cases(kernels, seed);
  std::vector<DType> formats = OnDevices(scope.formats);
  const auto begin = [&](const char* family, std::optional<DType> format = std::nullopt) {
    if (stage) stage(format ? fmt::format("{} in {}", family, Name(*format)) : family);
  };
  begin("what is done row by row");
  cases.RowWise();
  if (scope.experts) cases.Router();
  if (scope.hand_over) cases.HandOver();
  if (scope.feed) cases.Feed();
  for (const DType format : formats) {
    begin("products", format);
    cases.Products(format, scope.bf16);
    if (scope.fp8 && scope.bf16 && format == DType::kF8E4M3) cases.ProductsInF8();
  }
  for (const DType format : formats) {
    if (scope.experts) begin("experts", format);
    if (scope.experts) cases.Experts(format, scope.bf16);
  }
  for (const DType format : OnDevices(scope.panel_formats)) {
    begin("panels", format);
    cases.Panels(format);
  }
  for (const DType kv_type : scope.kv_types) {
    if (scope.mla && !formats.empty()) {
      begin("MLA with a cache", kv_type);
      cases.Mla(kv_type, formats, scope.bf16);
      formats.resize(1);  // the products with W_UK and W_UV do not see the cache
    }
    if (!scope.heads || kv_type == DType::kF8E4M3) continue;
    begin("attention with a cache", kv_type);
    cases.Heads(kv_type);
  }
  return cases.TakeRows();
}

void RequirePassed(std::span<const SelfTestRow> rows, const ClDeviceInfo& device) {
  const auto failed = std::ranges::find_if_not(rows, &SelfTestRow::passes);
  if (failed == rows.end()) return;
  Throw<OpenClError>(
      "'{}' (driver {}) computes wrong numbers: the self-test of its kernels found in '{}' ({}, "
      "{}) an error of {:.2g}, expected at most {:.2g}; see `tandem doctor --gpu`, use another "
      "device or driver, or run on the CPU (--device none)",
      device.name, device.driver_version, failed->family, failed->shape, failed->format,
      failed->error, failed->bound);
}

void SelfTestOnce(cl::Kernels& kernels, const SelfTestScope& scope,
                  const std::filesystem::path& cache) {
  const cl::ProgramCache passed(cache);
  const std::string key = KeyOf(kernels, scope);
  if (passed.Load(key)) return;
  RequirePassed(RunSelfTest(kernels, scope), kernels.device().info());
  passed.Store(key, {});
}

std::vector<SelfTestRow> WorstOfFamilies(std::span<const SelfTestRow> rows) {
  // By how much of its bound an error takes; an exact one that must be exact is the least.
  const auto share = [](const SelfTestRow& row) {
    if (row.bound == 0) return row.error == 0 ? 0 : std::numeric_limits<double>::infinity();
    return std::isnan(row.error) ? std::numeric_limits<double>::infinity() : row.error / row.bound;
  };
  std::vector<SelfTestRow> worst;
  for (const SelfTestRow& row : rows) {
    const auto known = std::ranges::find(worst, row.family, &SelfTestRow::family);
    if (known == worst.end()) {
      worst.push_back(row);
    } else if (share(row) > share(*known)) {
      *known = row;
    }
  }
  return worst;
}

}  // namespace tandem

#include "runtime/tune_kernels_work.h"

#include <algorithm>
#include <utility>

#include "memory/split_layout.h"

namespace tandem {
namespace {

using Kind = ShapeWork::Kind;

constexpr std::size_t kMiB = std::size_t{1} << 20;

// Shapes of matrices and experts; formats and rows are the work's.
KernelGrid GridFor(const ClDeviceInfo& device, bool quick) {
  KernelGrid g;
  if (quick) {
    g.matrices = {{64, 256}};
    g.widths = {256};
    g.experts = {{"tiny", 256, 256, 8, 2}};
    g.most_experts = 2;
    g.expert_rows = 24;
  } else if (device.is_cpu) {
    g.matrices = {{2048, 2048}, {512, 7168}};
    g.widths = {2048};
    g.experts = {{"V2-Lite", 2048, 1408, 64, 6}};
    g.most_experts = 2;
    g.expert_rows = 16;
  } else {
    g.matrices = {{7168, 18432}, {2048, 7168}, {2048, 2048}};
    g.widths = {7168, 2048};
    g.experts = {{"V3", 7168, 2048, 256, 8}};
    g.most_experts = 8;
    g.expert_rows = 64;
  }
  return g;
}

// No cache holds them; a device may have work for others.
std::size_t WeightBytesFor(const ClDeviceInfo& device, bool quick) {
  const std::uint64_t wanted = (quick ? 8 : device.is_cpu ? 128 : 1024) * kMiB;
  return std::min({wanted, device.max_alloc_bytes, device.global_mem_bytes / 16}) / kMiB * kMiB;
}

// Up to three numbers of rows above `low` and up to `high`.
std::vector<ShapeWork> RowsBetween(std::int64_t low, std::int64_t high) {
  constexpr std::int64_t kFarthest = 4;  // beyond that many times `low` all goes on as there
  if (low > high) std::swap(low, high);
  high = std::min(high, kFarthest * low);
  std::vector<ShapeWork> work;
  for (const std::int64_t rows : {low + 1, (low + high + 1) / 2, high}) {
    const ShapeWork one{Kind::kProduct, rows};
    if (std::ranges::find(work, one) == work.end()) work.push_back(one);
  }
  return work;
}

}  // namespace

std::vector<ShapeAxis> AxesFor(const cl::DeviceTraits& t) {
  std::vector<ShapeAxis> axes = {{"wide_rows", {2, 4, 8}}};
  if (t.team > 1) axes.push_back({"teams", {4, 8, 16}});
  if (t.team > 1 && t.nv_compute == 0) axes.push_back({"team", {16, 32, 64}});
  axes.push_back({"max_rows", {4, 8}});
  if (t.nv_compute < 80) axes.push_back({"few_rows_max", {8, 16, 32, 64, 128}});
  if (t.nv_compute < 80 && t.team > 1) axes.push_back({"few_rows_fill", {0, 1}});
  if (t.nv_compute >= 70) axes.push_back({"one_row", {0, 1}});
  if (t.nv_compute >= 80) axes.push_back({"one_row_mma", {0, 1}});
  if (t.nv_compute >= 80) {
    axes.push_back({"batch_rows_min", {2, 3, 4, 5, 6}});
    axes.push_back({"batch_rows_max", {16, 24, 32, 48, 64}});
  }
  if (t.nv_compute == 90) axes.push_back({"wgmma_products", {0, 1}});
  if (t.group > 1) axes.push_back({"group", {64, 128, 256, 512}});
  return axes;
}

std::vector<ShapeWork> WorkOf(std::string_view tunable, std::int64_t from, std::int64_t to,
                              const cl::DeviceTraits& traits) {
  if (tunable == "few_rows_max" || tunable == "batch_rows_max") return RowsBetween(from, to);
  if (tunable == "batch_rows_min") return RowsBetween(from - 1, to - 1);
  if (tunable == "few_rows_fill") return {{Kind::kProduct, 64}, {Kind::kProduct, 256}};
  if (tunable == "group") return {{Kind::kNorm, 1}, {Kind::kNorm, 16}};
  if (tunable == "wgmma_products") return {{Kind::kProduct, 512}, {Kind::kManyExperts}};
  if (tunable == "one_row" || tunable == "one_row_mma") {
    return {{Kind::kProduct, 1}, {Kind::kExperts, 1}};
  }
  // Where the device has vendor instructions products of more than two rows run without the rest.
  const bool vendor = traits.nv_compute >= 80;
  if (tunable == "max_rows" && vendor) return {{Kind::kExperts, 8}};
  if (tunable == "max_rows") return {{Kind::kProduct, 8}, {Kind::kExperts, 8}};
  const std::int64_t few = vendor ? 2 : 8;
  return {{Kind::kProduct, 1}, {Kind::kProduct, few}, {Kind::kExperts, 1}};
}

std::vector<ShapeWork> WholeWork() {
  return {{Kind::kProduct, 1},  {Kind::kProduct, 2},   {Kind::kProduct, 8},
          {Kind::kProduct, 64}, {Kind::kProduct, 512}, {Kind::kExperts, 1},
          {Kind::kExperts, 8},  {Kind::kManyExperts},  {Kind::kNorm, 16}};
}

ShapeCases::ShapeCases(const ClDevice& device, std::vector<DType> formats, bool quick)
    : formats_(std::move(formats)), grid_(GridFor(device.info(), quick)) {
  const std::size_t bytes = WeightBytesFor(device.info(), quick);
  for (const DType format : formats_) memory_.try_emplace(format, device, bytes);
}

std::vector<KernelCase> ShapeCases::For(const std::vector<ShapeWork>& work) {
  std::vector<KernelCase> cases;
  for (const DType format : formats_) {
    for (const ShapeWork& one : work) {
      if (one.kind == Kind::kNorm && format != formats_.front()) continue;
      for (KernelCase& c : Of(one, format)) {
        if (c.left_out.empty()) cases.push_back(std::move(c));
      }
    }
  }
  return cases;
}

std::vector<KernelCase> ShapeCases::Of(const ShapeWork& work, DType format) {
  KernelGrid grid;
  BenchMemory& memory = memory_.at(format);
  if (work.kind == Kind::kNorm) {
    grid.widths = grid_.widths;
    grid.tokens = {work.rows};
    return RowCases(grid, memory);
  }
  if (work.kind == Kind::kProduct) {
    grid.matrices = grid_.matrices;
    grid.decode_formats = {format};
    grid.decode_rows = {work.rows};
    return ProductCases(grid, memory);
  }
  grid.experts = grid_.experts;
  grid.most_experts = grid_.most_experts;
  grid.expert_rows = grid_.expert_rows;
  grid.expert_formats = {format};
  if (work.kind == Kind::kExperts) grid.expert_tokens = {work.rows};
  std::vector<KernelCase> cases = ExpertCases(grid, memory);
  if (work.kind == Kind::kExperts && !cases.empty()) cases.pop_back();  // that of many rows
  return cases;
}

}  // namespace tandem

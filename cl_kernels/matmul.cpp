#include "cl_kernels/matmul.h"

#include "cl_kernels/launch.h"

namespace tandem::cl {
namespace {

// As in matmul.cl.
constexpr std::int64_t kTileRows = 64;
constexpr std::int64_t kTileColumns = 128;
constexpr std::int64_t kTileGroup = 256;

}  // namespace

MatmulLaunch ChooseMatmul(const MatmulForms& forms, const DeviceTraits& traits, std::int64_t rows,
                          std::int64_t N, std::int64_t batch) {
  if (rows > traits.few_rows_max) {
    return {forms.many, {CeilDiv(N, kTileColumns), CeilDiv(rows, kTileRows), batch}, kTileGroup};
  }
  const std::int64_t blocks = CeilDiv(rows, traits.max_rows);
  const std::int64_t wide = CeilDiv(N, traits.teams * traits.wide_rows);
  const bool narrow = wide * blocks * batch < traits.wide_min_groups;
  const std::int64_t columns = narrow ? CeilDiv(N, traits.teams) : wide;
  const std::string_view one = narrow ? forms.few_1_narrow : forms.few_1;
  const std::string_view several = narrow ? forms.few_narrow : forms.few;
  return {rows == 1 ? one : several, {columns, blocks, batch}, traits.group_size()};
}

}  // namespace tandem::cl

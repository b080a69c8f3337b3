#include "cl_kernels/program_sources.h"

#include <fmt/format.h>

namespace tandem::cl {

namespace source {  // written by embed_cl.cmake
extern const std::string_view common, matmul, linear, head_linear, experts, attention, kv_append,
    rmsnorm, rope, elementwise, router;
}  // namespace source

const std::array<ProgramSource, kNumPrograms> kProgramSources{{
    {Program::kLinear, "linear", TypedBy::kWeight},
    {Program::kHeadLinear, "head_linear", TypedBy::kWeight},
    {Program::kExperts, "experts", TypedBy::kWeight},
    {Program::kAttention, "attention", TypedBy::kKv},
    {Program::kKvAppend, "kv_append", TypedBy::kKv},
    {Program::kRmsNorm, "rmsnorm", TypedBy::kNothing},
    {Program::kRope, "rope", TypedBy::kNothing},
    {Program::kElementwise, "elementwise", TypedBy::kNothing},
    {Program::kRouter, "router", TypedBy::kNothing},
}};

namespace {

std::string_view OwnText(Program program) {
  switch (program) {
    case Program::kLinear:
      return source::linear;
    case Program::kHeadLinear:
      return source::head_linear;
    case Program::kExperts:
      return source::experts;
    case Program::kAttention:
      return source::attention;
    case Program::kKvAppend:
      return source::kv_append;
    case Program::kRmsNorm:
      return source::rmsnorm;
    case Program::kRope:
      return source::rope;
    case Program::kElementwise:
      return source::elementwise;
    case Program::kRouter:
      return source::router;
  }
  return {};
}

}  // namespace

const ProgramSource& SourceOf(Program program) {
  return kProgramSources[static_cast<std::size_t>(program)];
}

std::string TextOf(Program program) {
  const bool matmul = SourceOf(program).typed_by == TypedBy::kWeight;
  return fmt::format("{}{}{}", source::common, matmul ? source::matmul : std::string_view(),
                     OwnText(program));
}

std::string TypeOption(Program program, DType type) {
  switch (SourceOf(program).typed_by) {
    case TypedBy::kWeight:
      return fmt::format(" -DWTYPE={}", static_cast<int>(type));
    case TypedBy::kKv:
      return fmt::format(" -DKVTYPE={}", type == DType::kBF16 ? 1 : 0);
    case TypedBy::kNothing:
      break;
  }
  return {};
}

}  // namespace tandem::cl

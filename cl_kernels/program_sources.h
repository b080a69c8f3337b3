#pragma once

#include <array>
#include <string>
#include <string_view>

#include "memory/dtype.h"

namespace tandem::cl {

enum class Program : int {
  kLinear,
  kHeadLinear,
  kExperts,
  kAttention,
  kKvAppend,
  kRmsNorm,
  kRope,
  kElementwise,
  kRouter,
};
inline constexpr int kNumPrograms = 9;

// What a program is compiled for: -DWTYPE=, -DKVTYPE= or nothing.
enum class TypedBy : int { kNothing, kWeight, kKv };

struct ProgramSource {
  Program program;
  std::string_view name;  // of its .cl
  TypedBy typed_by;
};
extern const std::array<ProgramSource, kNumPrograms> kProgramSources;

const ProgramSource& SourceOf(Program program);
// The whole text that is compiled: the shared files, then the program's own.
std::string TextOf(Program program);
// " -DWTYPE=1", " -DKVTYPE=0" or "": the type's number as common.cl has it.
std::string TypeOption(Program program, DType type);

}  // namespace tandem::cl

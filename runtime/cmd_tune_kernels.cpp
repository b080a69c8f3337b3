#include <fmt/chrono.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cl_kernels/device_traits.h"
#include "memory/error.h"
#include "memory/split_layout.h"
#include "model/open_model.h"
#include "runtime/choose_device.h"
#include "runtime/cli.h"
#include "runtime/cli_options.h"
#include "runtime/interrupt.h"
#include "runtime/progress_bar.h"
#include "runtime/tune_kernels.h"

namespace tandem {
namespace {

constexpr const char* kExamples =
    R"(Tries other shapes of an OpenCL device's kernels (teams, weight rows of a team, numbers of rows from
which on another form serves, ...) on products and experts of usual sizes, in the weight formats
given, those of --model, or four usual ones. A shape must give the results of the program's own
table; it is kept if, in seven pairs of measurements in alternation, the median gain is above 2 % and
above the median deviation of the pairs. The result is a text file under
$XDG_CACHE_HOME/tandem/shapes (or ~/.cache/tandem/shapes) for this device, driver and version of the
program, and every command uses it from then on; `tandem devices` shows it, --reset removes it,
TANDEM_KERNEL_SHAPES=table ignores it and TANDEM_KERNEL_SHAPES=teams=4,wide_rows=2 takes others. Rates
that were measured before (`tandem topology --measure`) count for the shapes that they were measured
with. Ctrl-C ends it and keeps the best so far.
Examples:
  tandem tune kernels
  tandem tune kernels --device 1 --formats q4_k,bf16 --minutes 10
  tandem tune kernels --model DeepSeek-V2-Lite.gguf
  tandem tune kernels --reset)";

struct TuneKernelFlags {
  std::optional<int> device;
  std::vector<std::string> formats;
  std::string model;
  KernelTuneOptions tune;
  bool reset = false;
  bool quiet = false;
};

std::vector<std::string> DeviceFormatNames() {
  std::vector<std::string> names;
  for (int i = 0; i <= static_cast<int>(DType::kIQ4_XS); ++i) {
    const auto type = static_cast<DType>(i);
    if (IsDeviceFormat(type)) names.emplace_back(Name(type));
  }
  return names;
}

std::vector<DType> NamedFormats(const std::vector<std::string>& names) {
  std::vector<DType> formats;
  for (const std::string& name : names) {
    const std::optional<DType> format = ParseWeightFormat(name);
    if (!format || !IsDeviceFormat(*format)) {
      Throw<UsageError>("--formats {}: no format of weights that devices take; expected some of {}",
                        name, fmt::join(DeviceFormatNames(), ", "));
    }
    if (std::ranges::count(formats, *format) == 0) formats.push_back(*format);
  }
  return formats;
}

// Those with the most bytes: each costs minutes of compiling.
std::vector<DType> FormatsOf(const Model& model) {
  constexpr std::size_t kMost = 4;
  std::map<DType, std::uint64_t> bytes;
  for (const TensorInfo& tensor : model.tensors.all()) {
    if (tensor.cols() > 1 && IsDeviceFormat(tensor.dtype)) bytes[tensor.dtype] += tensor.bytes();
  }
  std::vector<std::pair<std::uint64_t, DType>> order;
  for (const auto& [format, size] : bytes) order.emplace_back(size, format);
  std::ranges::sort(order, std::greater());
  std::vector<DType> formats;
  for (std::size_t i = 0; i < std::min(kMost, order.size()); ++i) {
    formats.push_back(order[i].second);
  }
  return formats;
}

std::vector<DType> ChooseFormats(const TuneKernelFlags& flags, const ClDeviceInfo& device) {
  if (!flags.formats.empty()) return NamedFormats(flags.formats);
  if (!flags.model.empty()) return FormatsOf(OpenModel(flags.model));
  if (device.is_cpu) return {DType::kBF16, DType::kQ4_K};
  return {DType::kBF16, DType::kF8E4M3, DType::kQ8_0, DType::kQ4_K};
}

void Reset(const ClDeviceInfo& device, bool quiet) {
  const TunedShapes shapes = LoadShapes(ShapesFolder(), device);
  std::error_code failed;
  const bool removed = !shapes.file.empty() && std::filesystem::remove(shapes.file, failed);
  if (failed) {
    throw SystemError(fmt::format("{}: {}", shapes.file.string(), failed.message()), ExitCode::kIo);
  }
  if (quiet) return;
  fmt::print("device {}: {}\n", device.index,
             removed ? fmt::format("removed {}", shapes.file.string()) : "no shapes are stored");
}

std::string Listed(const std::vector<std::string>& changes) {
  return changes.empty() ? "the table's" : fmt::format("{}", fmt::join(changes, ", "));
}

void PrintEnd(const KernelTuneResult& result, const std::filesystem::path& file) {
  const char* why = result.end == TuneEnd::kNothingLeft ? "nothing is left to try"
                    : result.end == TuneEnd::kTime      ? "the time is over"
                                                        : "interrupted";
  fmt::print("{}; {} trials\n", why, result.trials.size());
  if (!result.total.ratios.empty()) {
    fmt::print("against the start, in alternation: {:+.1f} % (spread {:.1f} %)\n",
               100 * (result.total.median() - 1), 100 * result.total.spread());
  }
  fmt::print("shapes: {}\n", Listed(result.shapes.changes));
  if (file.empty()) return;
  fmt::print("stored in {}\n", file.string());
  if (result.shapes.changes != result.before) {
    fmt::print("rates are of the old shapes: measure them with `tandem topology --measure`\n");
  }
}

void TuneKernels(const TuneKernelFlags& flags) {
  const ClDevice device(ChooseClDevice(flags.device));
  if (flags.reset) return Reset(device.info(), flags.quiet);
  if (LoadShapes(ShapesFolder(), device.info()).forced) {
    Throw<ConfigError>("TANDEM_KERNEL_SHAPES says which shapes to take; unset it to tune");
  }
  if (ShapesFolder().empty()) {
    Throw<ConfigError>("no cache folder for the result: neither XDG_CACHE_HOME nor HOME is set");
  }
  KernelTuneOptions options = flags.tune;
  options.formats = ChooseFormats(flags, device.info());
  if (options.formats.empty()) Throw<UsageError>("{}: no weights that devices take", flags.model);
  const InterruptGuard guard;
  const auto say = [&](const std::string& line) {
    if (flags.quiet) return;
    fmt::print("{}\n", line);
    std::fflush(stdout);
  };
  ProgressBar progress(ProgressBar::StyleOf(flags.quiet), stderr, Interrupted);
  KernelTuner tuner(device, options, say, &progress);
  KernelTuneResult result = tuner.Run();
  if (result.end == TuneEnd::kInterrupted && result.shapes.changes == result.before) {
    ThrowInterrupted();
  }
  result.shapes.when = fmt::format("{:%Y-%m-%d}", fmt::gmtime(std::time(nullptr)));
  const auto file = StoreShapes(ShapesFolder(), device.info(), result.shapes);
  if (!flags.quiet) PrintEnd(result, file);
}

}  // namespace

void AddTuneKernelsCommand(CLI::App& tune, Command& chosen) {
  constexpr double kMostMinutes = 24 * 60;
  auto* command =
      tune.add_subcommand("kernels", "find faster shapes of an OpenCL device's kernels");
  auto flags = std::make_shared<TuneKernelFlags>();
  command
      ->add_option("--device", flags->device,
                   "index in `tandem devices`; the first that is no CPU if not given")
      ->type_name("N")
      ->check(CLI::NonNegativeNumber);
  CLI::Option* formats =
      command->add_option("--formats", flags->formats, "formats of weights, for example bf16,q4_k");
  formats->type_name("NAME")->delimiter(',')->allow_extra_args(false);
  command
      ->add_option("-m,--model", flags->model,
                   "take the formats of this model; only its headers are read")
      ->type_name("DIR|FILE")
      ->excludes(formats);
  command->add_option("--minutes", flags->tune.minutes, "how long to try")
      ->type_name("X")
      ->check(CLI::Range(0.01, kMostMinutes))
      ->capture_default_str();
  command->add_flag("--quick", flags->tune.quick,
                    "tiny products: whether it works, not what helps");
  command->add_flag("--reset", flags->reset, "remove what is stored for the device");
  command->add_flag("-q,--quiet", flags->quiet, "no progress and no table");
  command->footer(kExamples);
  command->callback([flags, &tune, &chosen] {
    RefuseFlagsOf(tune, "tandem tune", "tandem tune kernels");
    chosen = [flags] { TuneKernels(*flags); };
  });
}

}  // namespace tandem

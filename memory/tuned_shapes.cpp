#include "memory/tuned_shapes.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "memory/error.h"
#include "memory/file.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFormat = "1";  // raise it when a tunable changes its meaning
constexpr std::uint64_t kMostBytes = 16384;
constexpr std::size_t kMostName = 40;
constexpr const char* kVariable = "TANDEM_KERNEL_SHAPES";

// Names of devices and drivers are any bytes; a line of the file has none that end it.
std::string Printable(std::string text) {
  for (char& c : text) {
    if (std::iscntrl(static_cast<unsigned char>(c)) != 0) c = ' ';
  }
  const std::size_t end = text.find_last_not_of(' ');
  text.resize(end == std::string::npos ? 0 : end + 1);
  return text.erase(0, std::min(text.find_first_not_of(' '), text.size()));
}

using Fields = std::vector<std::pair<std::string, std::string>>;

// What the shapes are for: a file with another value is of another device or program.
Fields KeyOf(const ClDeviceInfo& device) {
  return {{"format", std::string(kFormat)},
          {"tandem", TANDEM_VERSION},
          {"device", Printable(device.name)},
          {"platform", Printable(device.platform_version)},
          {"driver", Printable(device.driver_version)}};
}

// "nvidia-h100-80gb-hbm3-0123456789abcdef.txt"
fs::path FileOf(const fs::path& folder, const ClDeviceInfo& device) {
  if (folder.empty()) return {};
  std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  std::string name;
  for (const auto& [key, value] : KeyOf(device)) {
    if (key == "format" || key == "tandem") continue;  // a new version replaces its file
    for (const char c : value + '\x1f') {
      hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    }
  }
  for (const char c : device.name.substr(0, kMostName)) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = byte < 0x80 && std::isalnum(byte) != 0;
    if (plain) name += static_cast<char>(std::tolower(byte));
    if (!plain && !name.empty() && name.back() != '-') name += '-';
  }
  return folder / fmt::format("{}{}{:016x}.txt", name, name.ends_with('-') ? "" : "-", hash);
}

Fields ParseLines(std::string_view text) {
  Fields fields;
  for (int number = 1; !text.empty(); ++number) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (line.empty() || line.front() == '#') continue;
    const std::size_t colon = line.find(": ");
    if (colon == std::string_view::npos) {
      Throw<ConfigError>("line {}: expected 'key: value'", number);
    }
    const std::string key(line.substr(0, colon));
    if (std::ranges::count(fields, key, &Fields::value_type::first) > 0) {
      Throw<ConfigError>("line {}: '{}' for the second time", number, Printable(key));
    }
    fields.emplace_back(key, line.substr(colon + 2));
  }
  return fields;
}

// Throws ConfigError or UsageError for what is no file of this device.
void Read(const std::string& text, const ClDeviceInfo& device, TunedShapes& shapes) {
  Fields fields = ParseLines(text);
  const auto take = [&](const std::string& key) {
    const auto field = std::ranges::find(fields, key, &Fields::value_type::first);
    if (field == fields.end()) Throw<ConfigError>("'{}' is missing", key);
    std::string value = std::move(field->second);
    fields.erase(field);
    return value;
  };
  for (const auto& [key, expected] : KeyOf(device)) {
    const std::string found = take(key);
    if (found == expected) continue;
    Throw<ConfigError>("measured for {} '{}', this is '{}'", key, Printable(found), expected);
  }
  shapes.when = Printable(take("measured"));
  for (const auto& [name, value] : fields) {
    shapes.changes.push_back(Printable(name) + "=" + Printable(value));
  }
}

TunedShapes Refused(fs::path file, const std::string& why) {
  return {{}, "", std::move(file), why, false};
}

TunedShapes FromVariable(std::string_view text) {
  TunedShapes shapes;
  shapes.forced = true;
  if (text == "table") return shapes;
  while (!text.empty()) {
    const std::string_view change = text.substr(0, text.find(','));
    text.remove_prefix(std::min(change.size() + 1, text.size()));
    shapes.changes.emplace_back(change);
  }
  return shapes;
}

}  // namespace

fs::path ShapesFolder() { return CacheFolder("shapes"); }

TunedShapes LoadShapes(const fs::path& folder, const ClDeviceInfo& device) {
  const char* forced = std::getenv(kVariable);
  if (forced != nullptr && *forced != '\0') return FromVariable(forced);
  TunedShapes shapes;
  shapes.file = FileOf(folder, device);
  std::error_code ignored;
  if (shapes.file.empty() || !fs::exists(shapes.file, ignored)) return shapes;
  try {
    Read(ReadWholeFile(shapes.file, kMostBytes), device, shapes);
    return shapes;
  } catch (const Error& error) {
    return Refused(shapes.file, error.what());
  }
}

fs::path StoreShapes(const fs::path& folder, const ClDeviceInfo& device,
                     const TunedShapes& shapes) {
  std::string text =
      "# Kernel shapes of an OpenCL device, measured by `tandem tune kernels`. Only what differs\n"
      "# from the program's own table is here. Remove the file to go back to that table;\n"
      "# TANDEM_KERNEL_SHAPES=table does so for one run.\n";
  for (const auto& [key, value] : KeyOf(device)) text += fmt::format("{}: {}\n", key, value);
  text += fmt::format("measured: {}\n", Printable(shapes.when));
  for (const std::string& change : shapes.changes) {
    const std::size_t equals = change.find('=');
    text += fmt::format("{}: {}\n", change.substr(0, equals), change.substr(equals + 1));
  }
  const fs::path file = FileOf(folder, device);
  std::error_code failed;
  fs::create_directories(folder, failed);
  if (failed) {
    throw SystemError(fmt::format("{}: {}", folder.string(), failed.message()), ExitCode::kIo);
  }
  AtomicFileWriter writer(file);
  writer.Write(text);
  writer.Commit();
  return file;
}

std::string ToText(const TunedShapes& shapes) {
  const std::string source =
      shapes.forced ? kVariable : fmt::format("measured {}, {}", shapes.when, shapes.file.string());
  if (!shapes.changes.empty())
    return fmt::format("{} ({})", fmt::join(shapes.changes, ", "), source);
  return shapes.forced || !shapes.when.empty() ? fmt::format("of the table ({})", source)
                                               : "of the table";
}

std::string WarningOf(const TunedShapes& shapes) {
  if (shapes.problem.empty()) return "";
  return fmt::format(
      "{}: the kernel shapes there are not used: {}; the program's table serves. Remove the file, "
      "or "
      "measure anew with `tandem tune kernels`",
      shapes.forced ? kVariable : shapes.file.string(), shapes.problem);
}

}  // namespace tandem

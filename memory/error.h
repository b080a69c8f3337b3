#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace tandem {

// The documented exit codes of the `tandem` program (sysexits where one fits).
enum class ExitCode : int {
  kOk = 0,
  kUsage = 2,
  kBadData = 65,      // model or cache data is damaged or not supported
  kMissingFile = 66,  // a named file does not exist
  kUnavailable = 69,  // no such device, or the plan does not fit the memory
  kInternal = 70,     // our own bug
  kOsLimit = 71,      // out of memory, file descriptors, ...
  kIo = 74,           // a read or write failed
  kConfig = 78,       // bad profile or setting
};

// The root of every exception that Tandem throws on purpose. A message names the thing, what was
// expected, what was found and the way out; `main` prints it on one line and exits with `code`.
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const noexcept { return code_; }

 private:
  ExitCode code_;
};

// A profile, flag value or environment setting that cannot be used.
class ConfigError : public Error {
 public:
  explicit ConfigError(const std::string& message) : Error(ExitCode::kConfig, message) {}
};

// A model file that is damaged, incomplete or not supported.
class CheckpointError : public Error {
 public:
  explicit CheckpointError(const std::string& message) : Error(ExitCode::kBadData, message) {}
};

// A call of OpenCL that failed, or a device that is not there.
class OpenClError : public Error {
 public:
  explicit OpenClError(const std::string& message) : Error(ExitCode::kUnavailable, message) {}
};

// A device has no room for a buffer of the plan.
class DeviceMemoryError : public OpenClError {
 public:
  explicit DeviceMemoryError(const std::string& message, int device = 0)
      : OpenClError(message), device_(device) {}
  int device() const { return device_; }  // in the list of all OpenCL devices

 private:
  int device_;
};

// A device failed in a way that its context does not survive: what was on it is gone.
class DeviceLostError : public OpenClError {
 public:
  using OpenClError::OpenClError;
};

// The operating system refused something: by default a limit; kIo and kMissingFile for files.
class SystemError : public Error {
 public:
  explicit SystemError(const std::string& message, ExitCode code = ExitCode::kOsLimit)
      : Error(code, message) {}
};

// A caller of the public API passed something outside its contract.
class UsageError : public Error {
 public:
  explicit UsageError(const std::string& message) : Error(ExitCode::kUsage, message) {}
};

template <class E, class... Args>
[[noreturn]] void Throw(fmt::format_string<Args...> format, Args&&... args) {
  throw E(fmt::format(format, std::forward<Args>(args)...));
}

[[noreturn]] void CheckFailed(const char* file, int line, const char* condition);

}  // namespace tandem

// An impossible state. Always on; used at module borders, never on user input.
#define TANDEM_CHECK(condition) \
  ((condition) ? static_cast<void>(0) : ::tandem::CheckFailed(__FILE__, __LINE__, #condition))

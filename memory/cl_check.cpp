#include "memory/cl_check.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "memory/cl_probe.h"
#include "memory/error.h"

namespace tandem {
namespace {

constexpr const char* kVariable = "TANDEM_CL_CHECK";  // the device's number
constexpr int kReply = 3;                             // the child's end of the pipe

bool& Answers() {
  static bool answers = false;
  return answers;
}

std::string TryDevice(int index) {
  for (const ClDeviceInfo& info : ListAllClDevices().devices) {
    if (info.index != index) continue;
    const ClDevice device(info);
    const ClBuffer buffer = device.Allocate(4096);
    const std::uint32_t sent = 0x5AFE0003;
    std::uint32_t got = 0;
    device.Zero(buffer.get(), 0, buffer.bytes());
    device.BlockingWrite(buffer.get(), 8, &sent, sizeof(sent));
    device.BlockingRead(buffer.get(), 8, &got, sizeof(got));
    return got == sent ? "" : fmt::format("it reads {:#x} where {:#x} was written", got, sent);
  }
  return "it is not among the OpenCL devices any more";
}

std::vector<std::string> ChildEnvironment(int index) {
  std::vector<std::string> variables;
  for (char** v = environ; *v != nullptr; ++v) variables.emplace_back(*v);
  variables.push_back(fmt::format("{}={}", kVariable, index));
  return variables;
}

// 0 where no process could be started.
pid_t Start(int index, int reply) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, reply, kReply);
  std::vector<std::string> variables = ChildEnvironment(index);
  std::vector<char*> env;
  for (std::string& v : variables) env.push_back(v.data());
  env.push_back(nullptr);
  std::string name = "tandem";
  std::array<char*, 2> arguments{name.data(), nullptr};
  pid_t child = 0;
  const int error =
      posix_spawn(&child, "/proc/self/exe", &actions, nullptr, arguments.data(), env.data());
  posix_spawn_file_actions_destroy(&actions);
  return error == 0 ? child : 0;
}

// What the child says until it closes the pipe; false when the time is up first.
bool ReadReply(int fd, Seconds limit, std::string& reply) {
  const auto end = std::chrono::steady_clock::now() + limit;
  std::array<char, 1024> chunk{};
  for (;;) {
    const Seconds left = end - std::chrono::steady_clock::now();
    if (left.count() <= 0) return false;
    pollfd waiting{fd, POLLIN, 0};
    if (poll(&waiting, 1, static_cast<int>(left.count() * 1000) + 1) <= 0) continue;
    const ssize_t n = read(fd, chunk.data(), chunk.size());
    if (n == 0) return true;
    if (n < 0 && errno != EINTR) return false;
    if (n > 0) reply.append(chunk.data(), static_cast<std::size_t>(n));
  }
}

std::string Judge(pid_t child, int fd, Seconds limit) {
  std::string reply;
  const bool complete = ReadReply(fd, limit, reply);
  if (!complete) kill(child, SIGKILL);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!complete) return fmt::format("a process that opened it hung for {} s", limit.count());
  if (WIFSIGNALED(status)) {
    return fmt::format("a process that opened it crashed ({})", strsignal(WTERMSIG(status)));
  }
  return WEXITSTATUS(status) == 0 ? "" : reply;
}

}  // namespace

std::string CheckClDeviceInChild(const ClDeviceInfo& info, Seconds limit) {
  if (!Answers()) return "";
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) return fmt::format("pipe: {}", std::strerror(errno));
  const pid_t child = Start(info.index, ends[1]);
  close(ends[1]);
  const std::string problem =
      child == 0 ? "no process could be started to look at it" : Judge(child, ends[0], limit);
  close(ends[0]);
  return problem;
}

void AnswerClCheck() {
  Answers() = true;
  const char* index = std::getenv(kVariable);
  if (index == nullptr) return;
  std::string problem;
  try {
    problem = TryDevice(std::atoi(index));
  } catch (const std::exception& error) {
    problem = error.what();
  }
  const ssize_t written = write(kReply, problem.data(), problem.size());
  _exit(problem.empty() && written == 0 ? 0 : 1);
}

}  // namespace tandem

// ctest: unit
#include "memory/file.h"

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <vector>

#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using test::ExpectBadData;
using test::ExpectError;
using test::TempFolder;

std::string TextOf(const File& file) { return ReadWholeFile(file, 1000); }

TEST(File, ReadsExactlyWhatIsAskedFor) {
  const TempFolder folder;
  const File file = File::Open(folder.Write("a", "0123456789"));
  EXPECT_EQ(file.size(), 10u);
  std::array<std::byte, 4> part{};
  file.PReadExact(3, part);
  EXPECT_EQ(std::memcmp(part.data(), "3456", 4), 0);
  ExpectError<SystemError>(ExitCode::kIo, {"/a", "ends at offset 10", "4 bytes", "offset 8"},
                           [&] { file.PReadExact(8, part); });
}

TEST(File, MovesOwnership) {
  const TempFolder folder;
  File a = File::Open(folder.Write("a", "A"));
  File b = std::move(a);
  EXPECT_EQ(TextOf(b), "A");
  b = File::Open(folder.Write("b", "B"));
  EXPECT_EQ(TextOf(b), "B");
}

TEST(File, LimitsWholeFiles) {
  const TempFolder folder;
  const fs::path path = folder.Write("a", "0123456789");
  EXPECT_EQ(ReadWholeFile(path, 10), "0123456789");
  ExpectBadData({"/a", "10 bytes", "at most 9"}, [&] { ReadWholeFile(path, 9); });
}

// F43
TEST(File, OpensRegularFilesOnly) {
  const TempFolder folder;
  ExpectError<SystemError>(ExitCode::kMissingFile, {"/none", "No such file"},
                           [&] { File::Open(folder / "none"); });
  ExpectError<SystemError>(ExitCode::kIo, {"a folder", "regular file"},
                           [&] { File::Open(folder.path()); });
  ExpectError<SystemError>(ExitCode::kIo, {"/dev/zero", "a device"},
                           [] { File::Open("/dev/zero"); });
  const std::string pipe = (folder / "pipe").string();
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  ExpectError<SystemError>(ExitCode::kIo, {"/pipe", "a pipe"}, [&] { File::Open(pipe); });
  fs::create_symlink("loop", folder / "loop");
  ExpectError<SystemError>(ExitCode::kIo, {"/loop", "symbolic links"},
                           [&] { File::Open(folder / "loop"); });
}

TEST(FileDeathTest, NamesTheReasonWhenAccessIsDenied) {
  const TempFolder folder;
  const fs::path path = folder.Write("secret", "x");
  fs::permissions(path, fs::perms::none);
  const auto open_as_nobody = [&] {
    constexpr uid_t kNobody = 65534;  // root may read everything
    if (::geteuid() == 0 && ::setresuid(kNobody, kNobody, kNobody) != 0) std::_Exit(2);
    ExpectError<SystemError>(ExitCode::kIo, {"/secret", "Permission denied"},
                             [&] { File::Open(path); });
    std::_Exit(testing::Test::HasFailure() ? 1 : 0);
  };
  EXPECT_EXIT(open_as_nobody(), testing::ExitedWithCode(0), "");
}

TEST(File, PlainNames) {
  EXPECT_TRUE(IsPlainFileName("model-00001-of-00002.safetensors"));
  EXPECT_TRUE(IsPlainFileName("..a"));
  for (const std::string_view bad :
       {std::string_view(""), std::string_view("."), std::string_view(".."),
        std::string_view("../a"), std::string_view("/etc/passwd"), std::string_view("a/b"),
        std::string_view("a\\b"), std::string_view("a\0b", 3), std::string_view("file:a")}) {
    EXPECT_FALSE(IsPlainFileName(bad)) << bad;
  }
}

// F27, with and without openat2: a link may lead to a name in the same folder and nowhere else.
void CheckLinksStayInside() {
  const TempFolder root;
  root.Write("outside", "secret");
  root.Write("model/real", "inside");
  const fs::path model = root / "model";
  fs::create_symlink("real", model / "link");
  fs::create_symlink("link", model / "link_to_link");
  fs::create_symlink("../outside", model / "escape");
  fs::create_symlink(root / "outside", model / "absolute");
  fs::create_symlink("escape", model / "link_to_escape");
  fs::create_symlink("loop", model / "loop");
  for (const char* good : {"real", "link", "link_to_link"}) {
    EXPECT_EQ(TextOf(File::OpenInFolder(model, good)), "inside") << good;
  }
  for (const char* bad : {"escape", "absolute", "link_to_escape"}) {
    ExpectBadData({bad, "outside of the model folder"}, [&] { File::OpenInFolder(model, bad); });
  }
  ExpectBadData({"../outside", "without any path"},
                [&] { File::OpenInFolder(model, "../outside"); });
  EXPECT_THROW(File::OpenInFolder(model, "loop"), SystemError);
  ExpectError<SystemError>(ExitCode::kMissingFile, {"none"},
                           [&] { File::OpenInFolder(model, "none"); });
}

void CheckCacheLinks() {
  const TempFolder root;
  root.Write("secret", "secret");
  root.Write("repo/blobs/abc", "blob");
  fs::create_symlink("../../secret", root / "repo/blobs/evil");
  for (const char* parent : {"repo/snapshots/rev", "repo/models/rev"}) {
    fs::create_directories(root / parent);
    fs::create_symlink("../../blobs/abc", root / parent / "a");
    fs::create_symlink("../../blobs/evil", root / parent / "b");
    fs::create_symlink("../../blobs/../../secret", root / parent / "c");
    fs::create_symlink("../../blobs/none", root / parent / "d");
  }
  const fs::path snapshot = root / "repo/snapshots/rev";
  EXPECT_EQ(TextOf(File::OpenInFolder(snapshot, "a")), "blob");
  EXPECT_THROW(File::OpenInFolder(snapshot, "b"), Error);
  ExpectBadData({"outside"}, [&] { File::OpenInFolder(snapshot, "c"); });
  ExpectError<SystemError>(ExitCode::kMissingFile, {"/d"},
                           [&] { File::OpenInFolder(snapshot, "d"); });
  // The same links in a folder that is no cache.
  ExpectBadData({"outside"}, [&] { File::OpenInFolder(root / "repo/models/rev", "a"); });
}

TEST(File, LinksStayInsideTheFolder) { CheckLinksStayInside(); }
TEST(File, CacheLinksLeadToTheirBlobsOnly) { CheckCacheLinks(); }

// As in a container whose filter does not know openat2.
void RefuseOpenat2() {
  std::array<sock_filter, 4> filter{
      sock_filter BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      sock_filter BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat2, 0, 1),
      sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
      sock_filter BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  const sock_fprog program{filter.size(), filter.data()};
  ASSERT_EQ(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
  ASSERT_EQ(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0) << std::strerror(errno);
  ASSERT_EQ(::syscall(SYS_openat2, -1, "", nullptr, 0), -1);
  ASSERT_EQ(errno, ENOSYS);
}

TEST(FileDeathTest, LinksStayInsideWithoutOpenat2) {
  EXPECT_EXIT(
      {
        RefuseOpenat2();
        CheckLinksStayInside();
        CheckCacheLinks();
        std::_Exit(testing::Test::HasFailure() ? 1 : 0);
      },
      testing::ExitedWithCode(0), "");
}

// A pread with faults: serves `text`, at most `most` bytes a call; call number `fail_at` fails.
struct FaultyFile {
  std::string_view text;
  std::size_t most = 0;
  int fail_at = -1;
  int error = 0;
  int calls = 0;
};
FaultyFile g_faulty;

ssize_t FaultyRead(int, void* to, std::size_t bytes, off_t offset) {
  if (g_faulty.calls++ == g_faulty.fail_at) {
    errno = g_faulty.error;
    return -1;
  }
  const auto at = static_cast<std::size_t>(offset);
  const std::size_t count = std::min({bytes, g_faulty.most, g_faulty.text.size() - at});
  std::memcpy(to, g_faulty.text.data() + at, count);
  return static_cast<ssize_t>(count);
}

// F44: each call in turn is interrupted, or fails for good.
TEST(PReadFully, GoesOnAfterShortAndInterruptedReads) {
  for (int fail_at = 0; fail_at < 4; ++fail_at) {
    g_faulty = {"0123456789", 3, fail_at, EINTR, 0};
    std::array<std::byte, 9> dst{};
    PReadFully(FaultyRead, -1, "f", 1, dst);
    EXPECT_EQ(std::memcmp(dst.data(), "123456789", 9), 0);
    EXPECT_EQ(g_faulty.calls, fail_at < 3 ? 4 : 3);
  }
}

TEST(PReadFully, ReportsFileAndOffsetOfAFailure) {
  for (int fail_at = 0; fail_at < 3; ++fail_at) {
    g_faulty = {"0123456789", 3, fail_at, EIO, 0};
    std::array<std::byte, 9> dst{};
    const std::string at = fmt::format("at offset {}", 1 + 3 * fail_at);
    ExpectError<SystemError>(ExitCode::kIo, {"shard.safetensors", at, "Input/output error"},
                             [&] { PReadFully(FaultyRead, -1, "shard.safetensors", 1, dst); });
  }
}

TEST(AtomicFileWriter, ShowsTheFileOnlyWhenItIsWhole) {
  const TempFolder folder;
  const fs::path path = folder.Write("out", "old");
  {
    AtomicFileWriter writer(path);
    writer.Write("new ");
    writer.Write("text");
    EXPECT_EQ(test::ReadText(path), "old");
    writer.Commit();
    EXPECT_EQ(test::ReadText(path), "new text");
  }
  { AtomicFileWriter(path).Write("half"); }
  EXPECT_EQ(test::ReadText(path), "new text");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);
  ExpectError<SystemError>(ExitCode::kMissingFile, {"none/out"},
                           [&] { AtomicFileWriter(folder / "none/out"); });
}

}  // namespace
}  // namespace tandem

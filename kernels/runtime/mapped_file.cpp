// Mapping and unmapping through POSIX.
#include "runtime/mapped_file.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace gorgon {

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(bytes_));
}

Status MappedFile::open(const std::string& path) {
  const auto failed = [&](const char* what, const char* why) {
    return Status(StatusCode::kIo, path + ": could not be " + what + " (" + why + "). Check the file and its permissions.");
  };
  if (path.find('\0') != std::string::npos) return failed("opened", "its name holds a zero byte");
  // Without blocking: the other end of a pipe may never come. It changes nothing for files.
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) return failed("opened", std::strerror(errno));
  struct stat info{};
  const bool has_contents = fstat(file, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > 0;
  void* data = has_contents ? mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_PRIVATE, file, 0) : MAP_FAILED;
  const int error = errno;
  ::close(file);
  if (!has_contents) return failed("mapped", "it is not a file with contents");
  if (data == MAP_FAILED) return failed("mapped", std::strerror(error));
  MappedFile fresh;
  fresh.data_ = data;
  fresh.bytes_ = info.st_size;
  *this = std::move(fresh);
  return {};
}

}  // namespace gorgon

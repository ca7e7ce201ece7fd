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
  const auto failed = [&](const char* what) {
    return Status(StatusCode::kIo, path + ": could not be " + what + " (" + std::strerror(errno) + "). Check the file and its permissions.");
  };
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return failed("opened");
  struct stat info{};
  if (fstat(file, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size <= 0) {
    ::close(file);
    return failed("mapped: it is not a file with contents");
  }
  void* data = mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_PRIVATE, file, 0);
  ::close(file);
  if (data == MAP_FAILED) return failed("mapped");
  MappedFile fresh;
  fresh.data_ = data;
  fresh.bytes_ = info.st_size;
  *this = std::move(fresh);
  return {};
}

}  // namespace gorgon

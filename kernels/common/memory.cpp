// The process's own memory, and buffers.
#include "common/memory.h"

#include <cstdlib>
#include <cstring>
#include <string>

#include "common/aligned_buffer.h"

namespace gorgon {

namespace {

class HostMemory : public Memory {
 public:
  Status allocate(int64_t bytes, const char* what, void** out) override {
    AlignedBuffer buffer;
    GORGON_TRY(buffer.allocate(bytes, what));
    *out = buffer.take();
    return {};
  }
  void release(void* data, int64_t) override { std::free(data); }
  Status copy(void* to, const void* from, int64_t bytes) override { return copy_here(to, from, bytes); }
  Status upload(void* to, const void* from, int64_t bytes) override { return copy_here(to, from, bytes); }
  Status download(void* to, const void* from, int64_t bytes) override { return copy_here(to, from, bytes); }
  Status fill(void* to, int byte, int64_t bytes) override {
    if (bytes > 0) std::memset(to, byte, bytes);
    return {};
  }
  bool is_host() const override { return true; }

 private:
  static Status copy_here(void* to, const void* from, int64_t bytes) {
    if (bytes > 0) std::memcpy(to, from, bytes);
    return {};
  }
};

}  // namespace

Memory& host_memory() {
  static HostMemory memory;
  return memory;
}

Status Buffer::allocate(int64_t bytes, const char* what) {
  void* data = nullptr;
  GORGON_TRY(memory_->allocate(bytes, what, &data));
  release();
  data_ = data;
  bytes_ = bytes;
  return {};
}

void Buffer::release() {
  if (data_ != nullptr) memory_->release(data_, bytes_);
  data_ = nullptr;
  bytes_ = 0;
}

}  // namespace gorgon

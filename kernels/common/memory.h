// Memory: where a backend keeps weights, caches and activations: this process's own, or a device's. Buffer: owned memory of one.
//
// What a device is told to do, it does later, in the order it was told; only `download` and Context::finish wait.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "common/status.h"

namespace gorgon {

class Memory {
 public:
  virtual ~Memory() = default;

  /** `bytes` zeros, on boundaries of 64 bytes at least. ERR_OUT_OF_MEMORY names `what`. */
  virtual Status allocate(int64_t bytes, const char* what, void** out) = 0;
  virtual void release(void* data, int64_t bytes) = 0;

  /** Within this memory; the ranges do not overlap. */
  virtual Status copy(void* to, const void* from, int64_t bytes) = 0;
  /** From the process's memory; `from` may be reused at once. */
  virtual Status upload(void* to, const void* from, int64_t bytes) = 0;
  /** To the process's memory; waits. */
  virtual Status download(void* to, const void* from, int64_t bytes) = 0;
  virtual Status fill(void* to, int byte, int64_t bytes) = 0;

  /** Whether its pointers can be read here. */
  virtual bool is_host() const = 0;

  /** Bytes in use, and the most that ever were; 0 where nobody counts. */
  virtual int64_t used() const { return 0; }
  virtual int64_t peak() const { return 0; }
};

/** The process's own. */
Memory& host_memory();

/** Owned memory whose allocation may fail without throwing. The Memory must outlive it. */
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(Memory& memory) : memory_(&memory) {}
  ~Buffer() { release(); }
  Buffer(Buffer&& other) noexcept
      : memory_(other.memory_), data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  /** Replaces the contents by `bytes` zeros; leaves the buffer as it was on failure. */
  Status allocate(int64_t bytes, const char* what);
  void release();

  Memory& memory() const { return *memory_; }
  std::byte* data() const { return static_cast<std::byte*>(data_); }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  int64_t bytes() const { return bytes_; }

 private:
  Memory* memory_ = &host_memory();
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace gorgon

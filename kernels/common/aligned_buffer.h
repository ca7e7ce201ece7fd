// AlignedBuffer: owned memory on cache-line boundaries whose allocation may fail without throwing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "common/status.h"

namespace gorgon {

class AlignedBuffer {
 public:
  static constexpr size_t kAlignment = 64;

  AlignedBuffer() = default;
  ~AlignedBuffer() { std::free(data_); }
  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  /** Replaces the contents by `bytes` zeros; leaves the buffer as it was on failure. */
  Status allocate(int64_t bytes, const char* what) {
    AlignedBuffer fresh;
    GORGON_TRY(fresh.reserve(bytes, what));
    *this = std::move(fresh);
    return {};
  }

  /** Grows (or shrinks) to `bytes`, keeping what fits; new bytes are zero. Leaves the buffer as it was on failure. */
  Status resize(int64_t bytes, const char* what) {
    AlignedBuffer fresh;
    GORGON_TRY(fresh.reserve(bytes, what));
    if (data_ != nullptr && fresh.data_ != nullptr) std::memcpy(fresh.data_, data_, bytes_ < fresh.bytes_ ? bytes_ : fresh.bytes_);
    *this = std::move(fresh);
    return {};
  }

  std::byte* data() { return static_cast<std::byte*>(data_); }
  const std::byte* data() const { return static_cast<const std::byte*>(data_); }
  template <class T>
  T* as() {
    return static_cast<T*>(data_);
  }
  template <class T>
  const T* as() const {
    return static_cast<const T*>(data_);
  }
  int64_t bytes() const { return static_cast<int64_t>(bytes_); }

 private:
  Status reserve(int64_t bytes, const char* what) {
    if (bytes < 0) return {StatusCode::kShape, std::string(what) + ": a negative size was asked for"};
    if (bytes == 0) return {};
    const size_t rounded = (static_cast<size_t>(bytes) + kAlignment - 1) / kAlignment * kAlignment;
    data_ = std::aligned_alloc(kAlignment, rounded);
    if (data_ == nullptr) {
      return {StatusCode::kOutOfMemory, "Out of memory while reserving " + std::to_string(bytes) + " bytes of " + what +
                                            ". Use a smaller budget, fewer tokens or fewer sequences at once."};
    }
    bytes_ = static_cast<size_t>(bytes);
    std::memset(data_, 0, rounded);
    return {};
  }

  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace gorgon

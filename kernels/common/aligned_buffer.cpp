// Reserving, which may fail. Not in the header: files compiled for different instruction sets must not share one copy.
#include "common/aligned_buffer.h"

#include <cstring>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace gorgon {

namespace {

/** A huge page, and from how many bytes on memory is laid out for them: reading weights would otherwise wait for an address every 4 KiB. */
constexpr size_t kHugePage = size_t{2} << 20, kHugeBytes = size_t{4} << 20;

/** Zeroed memory in *out, or null for 0 bytes. */
Status reserve(int64_t bytes, const char* what, void** out) {
  *out = nullptr;
  if (bytes < 0) return {StatusCode::kShape, std::string(what) + ": a negative size was asked for"};
  if (bytes == 0) return {};
  const size_t alignment = static_cast<size_t>(bytes) >= kHugeBytes ? kHugePage : AlignedBuffer::kAlignment;
  const size_t rounded = (static_cast<size_t>(bytes) + alignment - 1) / alignment * alignment;
  *out = std::aligned_alloc(alignment, rounded);
  if (*out == nullptr) {
    return {StatusCode::kOutOfMemory, "Out of memory while reserving " + std::to_string(bytes) + " bytes of " + what +
                                          ". Use a smaller budget, fewer tokens or fewer sequences at once."};
  }
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (alignment == kHugePage) madvise(*out, rounded, MADV_HUGEPAGE);  // a wish: without them all is as before
#endif
  std::memset(*out, 0, rounded);
  return {};
}

}  // namespace

Status AlignedBuffer::allocate(int64_t bytes, const char* what) {
  AlignedBuffer fresh;
  GORGON_TRY(reserve(bytes, what, &fresh.data_));
  fresh.bytes_ = static_cast<size_t>(bytes);
  *this = std::move(fresh);
  return {};
}

}  // namespace gorgon

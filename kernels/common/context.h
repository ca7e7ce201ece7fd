// What an operation runs with: on the CPU, a team of threads and memory it may scribble on.
#pragma once

#include <functional>

#include "common/aligned_buffer.h"
#include "common/memory.h"
#include "common/parallel.h"
#include "common/status.h"

namespace gorgon {

/** What the operations of a backend run with; made by it, used by one call at a time. */
struct Context {
  virtual ~Context() = default;
  virtual int threads() const = 0;
  /** Where everything lives that operations take, but for what their contracts say otherwise. */
  virtual Memory& memory() = 0;
  /** Called by whoever is about to run operations on this thread. */
  virtual Status enter() { return {}; }
  /** Waits until all that was asked for is done; a device's failures show here. */
  virtual Status finish() { return {}; }
  /**
   * Runs `body`, operations only, or repeats what it did when it last ran under this key: pointers and sizes in its arguments must be the
   * same, what they point to need not be. A device launches it as one.
   */
  virtual Status recorded(uint64_t /*key*/, const std::function<Status()>& body) { return body(); }
  /** Forgets what was recorded: memory has moved. */
  virtual void forget_recordings() {}
};

struct CudaContext;

/** Memory reused from call to call; what it holds between calls means nothing. */
class Scratch {
 public:
  /** At least `count` values of T, zeroed only when the memory is new. */
  template <class T>
  Status get(int64_t count, T** out) {
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    if (buffer_.bytes() < bytes) GORGON_TRY(buffer_.allocate(bytes + bytes / 4, "scratch memory"));
    *out = buffer_.as<T>();
    return {};
  }
  int64_t bytes() const { return buffer_.bytes(); }

 private:
  AlignedBuffer buffer_;
};

struct CpuContext : Context {
  explicit CpuContext(int threads) : pool(threads) {}
  int threads() const override { return pool.threads(); }
  Memory& memory() override { return host_memory(); }
  ThreadPool pool;
  Scratch scratch;
};

}  // namespace gorgon

// ThreadPool: splits a loop over a fixed team of threads; the caller is one of them.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace gorgon {

/** Sets the thread to flush subnormal inputs and results to zero, as AMX always does, and restores it when it ends. */
class FlushSubnormals {
 public:
  FlushSubnormals();
  ~FlushSubnormals();
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  uint64_t saved_;
};

/**
 * A team of threads that waits between loops: first spinning, since a step has dozens of loops a few microseconds apart, then asleep.
 * Iterations are handed out one by one; each must write only its own results, so the order of execution never shows.
 */
class ThreadPool {
 public:
  /** `threads` >= 1, the caller of run() included. */
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /** Calls body(iteration, thread) for each iteration in [0, count), thread in [0, threads()). One run() at a time. */
  template <class Body>
  void run(int64_t count, const Body& body) {
    if (count <= 0) return;
    if (count == 1 || workers_.empty()) {
      for (int64_t i = 0; i < count; ++i) body(i, 0);
      return;
    }
    start({&call<Body>, &body, count});
  }

  /** Splits [0, count) into one contiguous range per thread: body(begin, end, thread). The split depends on count and threads alone. */
  template <class Body>
  void run_ranges(int64_t count, const Body& body) {
    const int64_t parts = threads() < count ? threads() : count;
    run(parts, [&](int64_t part, int thread) { body(count * part / parts, count * (part + 1) / parts, thread); });
  }

 private:
  struct Loop {
    void (*call)(const void* body, int64_t iteration, int thread);
    const void* body;
    int64_t count;
  };

  template <class Body>
  static void call(const void* body, int64_t iteration, int thread) {
    (*static_cast<const Body*>(body))(iteration, thread);
  }

  void start(Loop loop);
  void work(int thread);
  void drain(int thread);

  Loop loop_{};
  std::atomic<int64_t> next_{0};
  std::atomic<int> unfinished_{0};
  std::atomic<uint32_t> generation_{0};
  std::atomic<bool> stopping_{false};
  std::atomic<int> sleeping_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
};

/** Physical cores this process may run on; at least 1. */
int physical_cores();

}  // namespace gorgon

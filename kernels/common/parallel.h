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
 *
 * Iteration i belongs to thread i % threads(), so that from step to step a thread meets the weights and keys that its core's cache still
 * holds. Whoever is done with its own takes over what others have not begun, the caller first of all: a thread that sleeps, or that the
 * system has given no time, is not waited for. Each iteration must write only its own results, so who ran it never shows.
 */
class ThreadPool {
 public:
  /** `threads` >= 1, the caller of run() included. */
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /**
   * Calls body(iteration, thread) for each iteration in [0, count), thread in [0, threads()): no two at a time with the same. One run() at a
   * time; count < 2^24.
   */
  template <class Body>
  void run(int64_t count, const Body& body) {
    if (count <= 0) return;
    if (count == 1 || workers_.empty()) {
      for (int64_t i = 0; i < count; ++i) body(i, 0);
      return;
    }
    start(&call<Body>, &body, count);
  }

  /**
   * Splits [0, count) into contiguous ranges, one per thread: body(begin, end, thread). With `least`, no range is smaller than that, which
   * leaves work too small to share to the caller. The split depends on count, least and threads alone.
   */
  template <class Body>
  void run_ranges(int64_t count, const Body& body, int64_t least = 1) {
    const int64_t useful = count / least, most = useful < threads() ? useful : threads();
    const int64_t parts = most > 1 ? most : count > 0 ? 1 : 0;
    run(parts, [&](int64_t part, int thread) { body(count * part / parts, count * (part + 1) / parts, thread); });
  }

 private:
  using Call = void (*)(const void* body, int64_t iteration, int thread);

  /** A loop, and its number: even, higher than those before it. */
  struct Loop {
    Call call;
    const void* body;
    int64_t count;
    uint64_t number;
  };

  /** What concerns one thread, on a cache line of its own. */
  struct alignas(64) Share {
    /** Number of the last loop any of whose iterations in this share were taken, and how many: see parallel.cpp. */
    std::atomic<uint64_t> taken{0};
    /** Number of the loop that the thread may be running iterations of; 0: none. */
    std::atomic<uint64_t> running{0};
  };

  template <class Body>
  static void call(const void* body, int64_t iteration, int thread) {
    (*static_cast<const Body*>(body))(iteration, thread);
  }

  void start(Call call, const void* body, int64_t count);
  void work(int thread);
  bool read_loop(Loop* loop) const;
  int64_t take(int share, const Loop& loop);
  void run_share(int share, const Loop& loop, int thread);

  /** The loop, readable while it is replaced: what was read counts if the number was the same, and even, before and after. */
  std::atomic<Call> call_{nullptr};
  std::atomic<const void*> body_{nullptr};
  std::atomic<int64_t> count_{0};
  alignas(64) std::atomic<uint64_t> number_{0};
  alignas(64) std::atomic<bool> stopping_{false};
  std::atomic<int> sleeping_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  int share_count_;
  std::unique_ptr<Share[]> shares_;
  std::vector<std::thread> workers_;
};

/** Physical cores this process may run on; at least 1. */
int physical_cores();

}  // namespace gorgon

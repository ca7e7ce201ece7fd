// The thread pool's waiting, waking and counting; the thread's subnormal mode.
#include "common/parallel.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <set>
#include <string>
#include <system_error>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif

namespace gorgon {

namespace {

// Long enough to cover the serial code between two loops of a step, short enough not to burn a core while nothing runs.
constexpr auto kSpin = std::chrono::microseconds(50);

inline void pause_once() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/** Spins until done() or the time is over; says whether done() came true. */
template <class Done>
bool spin_until(const Done& done) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  for (;;) {
    for (int i = 0; i < 64; ++i) {
      if (done()) return true;
      pause_once();
    }
    if (std::chrono::steady_clock::now() >= end) return done();
  }
}

}  // namespace

FlushSubnormals::FlushSubnormals() {
#if defined(__x86_64__)
  saved_ = _mm_getcsr();
  _mm_setcsr(static_cast<unsigned>(saved_) | 0x8040u);  // flush to zero, denormals are zero
#elif defined(__aarch64__)
  asm volatile("mrs %0, fpcr" : "=r"(saved_));
  asm volatile("msr fpcr, %0" ::"r"(saved_ | (1ull << 24)));
#else
  saved_ = 0;
#endif
}

FlushSubnormals::~FlushSubnormals() {
#if defined(__x86_64__)
  _mm_setcsr(static_cast<unsigned>(saved_));
#elif defined(__aarch64__)
  asm volatile("msr fpcr, %0" ::"r"(saved_));
#endif
}

ThreadPool::ThreadPool(int threads) {
  workers_.reserve(threads > 1 ? threads - 1 : 0);
  for (int thread = 1; thread < threads; ++thread) {
    try {
      workers_.emplace_back([this, thread] { work(thread); });
    } catch (const std::exception&) {
      return;  // the system gives no more: fewer threads compute the same, later
    }
  }
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_.store(true);
    generation_.fetch_add(1);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::start(Loop loop) {
  loop_ = loop;
  next_.store(0, std::memory_order_relaxed);
  unfinished_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1);  // publishes the loop; sequentially consistent with the sleepers' count below
  if (sleeping_.load() > 0) {
    { const std::lock_guard<std::mutex> lock(mutex_); }  // a worker between its last look and its wait holds the lock
    wake_.notify_all();
  }
  drain(0);
  // Every worker must have left the loop before its body goes out of scope.
  while (!spin_until([this] { return unfinished_.load(std::memory_order_acquire) == 0; })) std::this_thread::yield();
}

void ThreadPool::drain(int thread) {
  const Loop loop = loop_;
  for (;;) {
    const int64_t iteration = next_.fetch_add(1, std::memory_order_relaxed);
    if (iteration >= loop.count) return;
    loop.call(loop.body, iteration, thread);
  }
}

void ThreadPool::work(int thread) {
  const FlushSubnormals flush;
  uint32_t seen = 0;
  for (;;) {
    const auto changed = [&] { return generation_.load() != seen; };
    if (!spin_until(changed)) {
      std::unique_lock<std::mutex> lock(mutex_);
      sleeping_.fetch_add(1);
      wake_.wait(lock, changed);
      sleeping_.fetch_sub(1);
    }
    seen = generation_.load(std::memory_order_acquire);
    if (stopping_.load()) return;
    drain(thread);
    unfinished_.fetch_sub(1, std::memory_order_release);
  }
}

int physical_cores() {
  int logical = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
    std::set<std::string> cores;  // siblings of one core share this line
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (!CPU_ISSET(cpu, &allowed)) continue;
      std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list");
      std::string siblings;
      if (std::getline(file, siblings)) cores.insert(siblings);
    }
    logical = cores.empty() ? CPU_COUNT(&allowed) : static_cast<int>(cores.size());
  }
#endif
#if defined(__linux__)
  // A container may be given less time than it sees processors.
  std::ifstream limit("/sys/fs/cgroup/cpu.max");
  double quota = 0, period = 0;
  if (limit >> quota >> period && quota > 0 && period > 0) logical = std::min(logical, static_cast<int>(std::ceil(quota / period)));
#endif
  return logical < 1 ? 1 : logical;
}

}  // namespace gorgon

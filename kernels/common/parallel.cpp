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

// Long enough to cover the way from one call of a step to the next, through JavaScript; short enough not to burn a core while nothing runs.
constexpr auto kSpin = std::chrono::microseconds(200);
// For the last iterations of a loop: whoever takes longer has lost its processor, and may get back ours.
constexpr auto kJoinSpin = std::chrono::microseconds(20);

inline void pause_once() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/** Spins until done() or the time is over; says whether done() came true. */
template <class Done>
bool spin_until(const Done& done, std::chrono::microseconds time) {
  const auto end = std::chrono::steady_clock::now() + time;
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

// A share's `taken` is the loop's number and a count of iterations. Taking one is a compare-and-swap that names the loop, so it fails for
// whoever is late and still thinks of an earlier one. A share whose number is lower has not been touched in this loop: nothing of it is taken,
// and nobody has to reset it.
//
// A loop is over for the caller when all its iterations are taken and no other thread is running any. A worker says that it is `running`
// before it takes its first: when the caller finds nothing left to take, it sees all who took something.

namespace {

constexpr int kCountBits = 24;
constexpr uint64_t kCountMask = (uint64_t{1} << kCountBits) - 1;
/** Loop numbers are kept in what is left: 2^39 loops are months of decoding, and then only a share that sat out all of them could err. */
constexpr uint64_t kNumberMask = ~uint64_t{0} >> kCountBits;

bool is_before(uint64_t number, uint64_t other) { return number != other && ((other - number) & kNumberMask) <= kNumberMask / 2; }

}  // namespace

ThreadPool::ThreadPool(int threads) : share_count_(threads > 1 ? threads : 1), shares_(new Share[share_count_]) {
  workers_.reserve(share_count_ - 1);
  for (int thread = 1; thread < share_count_; ++thread) {
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
    number_.fetch_add(2);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::start(Call call, const void* body, int64_t count) {
  const uint64_t number = number_.load(std::memory_order_relaxed) + 2;
  number_.store(number - 1, std::memory_order_relaxed);  // odd: being replaced
  std::atomic_thread_fence(std::memory_order_release);
  call_.store(call, std::memory_order_relaxed);
  body_.store(body, std::memory_order_relaxed);
  count_.store(count, std::memory_order_relaxed);
  number_.store(number);  // publishes the loop; sequentially consistent with the sleepers' count below
  if (sleeping_.load() > 0) {
    { const std::lock_guard<std::mutex> lock(mutex_); }  // a worker between its last look and its wait holds the lock
    wake_.notify_all();
  }
  const Loop loop{call, body, count, number};
  for (int share = 0; share < share_count_; ++share) run_share(share, loop, 0);
  // Every worker must have left the loop before its body goes out of scope.
  for (int thread = 1; thread < share_count_; ++thread) {
    const auto left = [&] { return shares_[thread].running.load(std::memory_order_acquire) != number; };
    while (!spin_until(left, kJoinSpin)) std::this_thread::yield();
  }
}

bool ThreadPool::read_loop(Loop* loop) const {
  loop->call = call_.load(std::memory_order_relaxed);
  loop->body = body_.load(std::memory_order_relaxed);
  loop->count = count_.load(std::memory_order_relaxed);
  std::atomic_thread_fence(std::memory_order_acquire);
  return number_.load(std::memory_order_relaxed) == loop->number;
}

int64_t ThreadPool::take(int share, const Loop& loop) {
  std::atomic<uint64_t>& taken = shares_[share].taken;
  const uint64_t number = loop.number & kNumberMask;
  uint64_t seen = taken.load(std::memory_order_acquire);
  for (;;) {
    if (is_before(number, seen >> kCountBits)) return -1;  // the loop is over
    const int64_t count = seen >> kCountBits == number ? static_cast<int64_t>(seen & kCountMask) : 0;
    const int64_t iteration = share + count * share_count_;
    if (iteration >= loop.count) return -1;
    if (taken.compare_exchange_weak(seen, number << kCountBits | static_cast<uint64_t>(count + 1))) return iteration;
  }
}

void ThreadPool::run_share(int share, const Loop& loop, int thread) {
  for (int64_t iteration = take(share, loop); iteration >= 0; iteration = take(share, loop)) loop.call(loop.body, iteration, thread);
}

void ThreadPool::work(int thread) {
  const FlushSubnormals flush;
  Share& own = shares_[thread];
  uint64_t seen = 0;
  for (;;) {
    const auto changed = [&] {
      const uint64_t number = number_.load();
      return number != seen && number % 2 == 0;
    };
    if (!spin_until(changed, kSpin)) {
      std::unique_lock<std::mutex> lock(mutex_);
      sleeping_.fetch_add(1);
      wake_.wait(lock, changed);
      sleeping_.fetch_sub(1);
    }
    Loop loop{};
    loop.number = seen = number_.load(std::memory_order_acquire);
    if (stopping_.load()) return;
    if (seen % 2 != 0 || !read_loop(&loop) || thread >= loop.count) continue;
    own.running.store(seen);
    run_share(thread, loop, thread);
    // Where each thread has one iteration at most, the caller takes over for who is late.
    for (int i = 1; loop.count > share_count_ && i < share_count_; ++i) run_share((thread + i) % share_count_, loop, thread);
    own.running.store(0, std::memory_order_release);
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

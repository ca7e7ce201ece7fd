// posterior on CUDA. Answers are written into page-locked memory of the process, which is watched there: the last kernel and the process
// knowing are one write over the bus apart, without a copy and without waiting for the stream.
//
// Where every node is plain greedy, a row of logits is cut among blocks. Each writes its best rank, the order-preserving bits of a logit in
// front of the complement of its id, and the process takes the largest: a rank is never 0, so that a value that is not 0 is also the sign
// that it is there.
//
//   row 0   | block 0 | block 1 | ... |      ranks  u64 [N, slices]     2 blocks per multiprocessor over all rows, at least 1024 ids each
//   row 1   | block 0 | block 1 | ... |
//
// Otherwise a node is a cluster's of 4 blocks of 512 threads, on Hopper and from 8192 ids on, and else one such block's. What the host knows
// of it is an argument of the launch; only arrays (ids that occurred, paths, biases) go to the device in a copy before. The blocks share the ids out:
//
//   ids     | block 0        | block 1        | block 2        | block 3        |     whole sums of 256 ids each, V' = V rounded up to that
//   x       f32, adjusted logits, -infinity past V, in shared memory (in scratch where a block has more than 88 KiB)
//   sums    f64, of 256 weights each
//
// and pass over x again and again; at the end of a pass they meet, and each reads the others' results out of their shared memory:
//
//   adjust -> best rank -> cut of top-k -> sum of weights -> cut of top-p -> sums of weights -> draw
//
// Weights are not kept: the exponential is computed anew where it is needed. What is kept of the ids is no array either but a cut, the
// (value, id) where they end in the order of ranks. It is found by passes that measure what lies above three values at once, inside an interval
// that becomes smaller until the ids in it can be sorted. Only ids in that interval cost more than two comparisons.
//
// Every sum has an order that depends on V alone: within a thread its own ids, then lanes, warps, blocks. All blocks and all warps make the
// same sums of what was exchanged and decide the same, which is cheaper than one of them telling the others.
#include "ops/posterior.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <thread>
#include <vector>

#include "common/cuda_context.h"
#include "common/device.cuh"
#include "common/packed.h"
#include "ops/rank.cuh"
#include "ops/top_k.h"

namespace gorgon {

namespace {

/** Nodes of a launch. */
constexpr int64_t kMostNodes = 64;

constexpr uint32_t kOrderedLowest = 0x007fffffu;  // of -infinity

__device__ __forceinline__ float rank_value(uint64_t rank) { return ordered_float(static_cast<uint32_t>(rank >> 32)); }

/** +infinity counts as the largest float; NaN stays. */
__device__ __forceinline__ float bounded(float x) { return x > FLT_MAX ? FLT_MAX : x; }
/** NaN as -infinity, too. */
__device__ __forceinline__ float ordinary(float x) { return x != x ? -INFINITY : bounded(x); }

// ---- plain greedy ----

constexpr int kGreedyThreads = 512;
constexpr int64_t kLeastSlice = 1024;

struct GreedyRows {
  const float* logits[kMostNodes];
};

__global__ void __launch_bounds__(kGreedyThreads) posterior_greedy_slices_kernel(GreedyRows rows, uint32_t vocab, uint32_t slice, volatile uint64_t* ranks) {
  __shared__ uint64_t partials[kGreedyThreads / kWarp];
  const float* logits = rows.logits[blockIdx.y];
  const uint32_t begin = blockIdx.x * slice, end = min(begin + slice, vocab);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  let_next_start();
  wait_for_previous();

  // NaN has the bits 0, and an id that is passed over here is a later one of the same bits.
  uint32_t best = 0, at = begin + threadIdx.x;
#pragma unroll 8
  for (uint32_t id = begin + threadIdx.x; id < end; id += kGreedyThreads) {
    const uint32_t bits = ordered_bits(bounded(logits[id]));
    if (bits > best) {
      best = bits;
      at = id;
    }
  }
  uint64_t rank = warp_best(rank_of(best, at));
  if (lane == 0) partials[warp] = rank;
  __syncthreads();
  if (warp > 0) return;
  rank = warp_best(lane < kGreedyThreads / kWarp ? partials[lane] : 0);
  if (lane == 0) ranks[static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x] = rank;
}

// ---- what a block needs to know of its node ----

/** Written last, by itself. */
struct NodeAnswer {
  int32_t chosen;
  float entropy;
  float chosen_logprob;
  uint32_t is_done;
};

/** A PosteriorNode with its sampling, in pointers of the device. */
struct NodeTask {
  const float* logits;
  /** What the draw is made with. */
  double uniform;
  float temperature, top_p, min_p;
  int32_t top_k;
  float repetition_penalty, frequency_penalty, presence_penalty;
  int32_t logprobs;
  bool is_plain, has_penalties, typical;
  const int32_t* bias_ids;
  const float* bias_values;
  int64_t bias_count;
  const int32_t* suppressed_ids;
  int64_t suppressed_count;
  /** Ids of prompt and committed output, each once, and times they are in the output. */
  const int32_t* occurring_ids;
  const float* occurring_counts;
  int64_t occurring_count;
  /** Ids of the path, each once, times they are in output and path, and room for their logits without penalties. */
  const int32_t* path_ids;
  const float* path_counts;
  float* path_logits;
  int64_t path_count;
  const int32_t* child_tokens;
  int64_t child_count;
  // Results, in page-locked memory.
  NodeAnswer* answer;
  float* child_prob;
  float* child_logprob;
  int32_t* top_ids;
  float* top_values;
};

/** By value: a copy of its own would come between the last logits and the kernel. */
struct NodeTasks {
  NodeTask nodes[kMostNodes];
};

// ---- sums in order: a warp's lanes own neighbouring items ----

struct LaneItems {
  uint32_t begin, end;
};

__device__ __forceinline__ LaneItems lane_items(uint32_t count) {
  const uint32_t each = (count + kWarp - 1) / kWarp, begin = min(each * (threadIdx.x % kWarp), count);
  return {begin, min(begin + each, count)};
}

/** `start` and what the lanes before this one have; `all` becomes that of all lanes. */
__device__ __forceinline__ double before_lane(double start, double own, double* all) {
  const int lane = threadIdx.x % kWarp;
  double sum = own;
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const double lower = __shfl_up_sync(kAllLanes, sum, step);
    if (lane >= step) sum = lower + sum;
  }
  const double before = __shfl_up_sync(kAllLanes, sum, 1);
  *all = start + __shfl_sync(kAllLanes, sum, kWarp - 1);
  return lane == 0 ? start : start + before;
}

template <class Value>
__device__ double ordered_sum(uint32_t count, const Value& value_at) {
  const LaneItems items = lane_items(count);
  double own = 0.0, all = 0.0;
  for (uint32_t i = items.begin; i < items.end; ++i) own += value_at(i);
  before_lane(0.0, own, &all);
  return all;
}

struct Found {
  uint32_t index;
  /** The sum in front of it. */
  double before;
};

/**
 * The first item at which `start` and the values so far exceed `target`, or reach it. One by one they may round to less than lane by lane: where
 * none does, the last item that is not 0. The same in all lanes.
 */
template <bool kExceeds, class Value>
__device__ Found first_beyond(uint32_t count, double start, double target, const Value& value_at) {
  const LaneItems items = lane_items(count);
  double own = 0.0, all = 0.0;
  for (uint32_t i = items.begin; i < items.end; ++i) own += value_at(i);
  double sum = before_lane(start, own, &all);
  Found found{0, 0.0};
  bool is_beyond = false, is_any = false;
  for (uint32_t i = items.begin; i < items.end && !is_beyond; ++i) {
    const double value = value_at(i);
    if (value == 0.0) continue;
    found = {i, sum};
    is_any = true;
    sum += value;
    is_beyond = kExceeds ? sum > target : sum >= target;
  }
  const uint32_t beyond = __ballot_sync(kAllLanes, is_beyond), any = __ballot_sync(kAllLanes, is_any);
  const int lane = beyond != 0 ? __ffs(beyond) - 1 : any != 0 ? kWarp - 1 - __clz(any) : 0;
  found.index = __shfl_sync(kAllLanes, found.index, lane);
  found.before = __shfl_sync(kAllLanes, found.before, lane);
  return found;
}

template <class T>
__device__ __forceinline__ T sum_of_lanes(T value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

// ---- logits, adjusted ----

/** Of an id that occurs, `count` times in the output. Each operation rounded by itself. */
__device__ __forceinline__ float penalised(const NodeTask& task, float x, float count) {
  const float repeated = ordinary(x > 0.0f ? __fdiv_rn(x, task.repetition_penalty) : __fmul_rn(x, task.repetition_penalty));
  if (count == 0.0f) return repeated;
  return ordinary(__fsub_rn(ordinary(__fsub_rn(repeated, __fmul_rn(task.frequency_penalty, count))), task.presence_penalty));
}

__device__ __forceinline__ bool is_adjusted(const NodeTask& task) { return task.bias_count > 0 || task.has_penalties || task.suppressed_count > 0; }

// ---- what is kept, and what it weighs ----

/** Where kept ids end: they are those above `value`, and those at `value` up to `last_id`. */
struct Cut {
  float value;
  uint32_t last_id;

  __device__ bool keeps(float x, uint32_t id) const { return x > value || (x == value && id <= last_id); }
};

__device__ __forceinline__ Cut everything() { return {-INFINITY, UINT32_MAX}; }

/** What an id weighs: 1 for the best, 0 where it is dropped. */
struct Weighing {
  float top;
  /** 1 / temperature. */
  float scale;
  Cut kept;
  float least;

  __device__ float exponent(float x) const { return (x - top) * scale; }
  __device__ float weight(float x, uint32_t id) const {
    const float e = kept.keeps(x, id) ? expf(exponent(x)) : 0.0f;
    return e < least ? 0.0f : e;
  }
};

enum class Measure { kIds, kWeight };

/** Of the ids above a value: their weights together, and how many they are. */
struct Tally {
  double weight;
  int32_t ids;
};

template <Measure kMeasure>
__device__ __forceinline__ double measured(const Tally& tally) {
  return kMeasure == Measure::kIds ? static_cast<double>(tally.ids) : tally.weight;
}

/** Between the two, as many floats above one as below the other; one of them, or a zero that equals it, where there is none between. */
__device__ __forceinline__ float middle_of(float low, float high) {
  const uint32_t first = ordered_bits(low), last = ordered_bits(high);
  return ordered_float(first + (last - first) / 2);
}

/** Of the logits as they came: ln of a probability is (l - top) - ln of the sum of exp(l - top). */
struct RawDistribution {
  float top;
  double log_total;
  /** Where all logits are -infinity: the id that has all the probability; otherwise -1. */
  int32_t only_id;

  __device__ float logprob(const float* logits, int32_t id) const {
    if (only_id >= 0) return id == only_id ? 0.0f : -INFINITY;
    return static_cast<float>(static_cast<double>(ordinary(logits[id])) - static_cast<double>(top) - log_total);
  }
};

// ---- a block and its ids ----

/** Blocks of a cluster, which share a node. */
constexpr int kClusterBlocks = 4;
/** Ids from which on a node is a cluster's. */
constexpr int64_t kLeastClustered = 8192;
/** Bytes of x that a block keeps in shared memory; more is in scratch. What every device has, beside its first-level cache. */
constexpr int64_t kMostShared = 88 * 1024;
/** Ids whose weights make one sum; a block has whole ones. */
constexpr uint32_t kSumIds = 256;
/** Values whose tallies one pass makes. */
constexpr int kProbes = 3;
/** Ids that are sorted rather than measured. */
constexpr int kBandIds = 128;
constexpr int kThreads = 512, kWarps = kThreads / kWarp, kRankers = kThreads / kBandIds;
static_assert(kMaxTopK <= kBandIds && kSumIds % (4 * kWarp) == 0);

/** What the blocks of a cluster tell each other. */
struct Exchange {
  uint64_t rank;
  double weights[kProbes];
  int32_t ids[kProbes];
};

struct Shared {
  NodeTask task;
  RawDistribution raw;
  uint64_t ranks[kWarp];
  double weights[kProbes][kWarp];
  int32_t ids[kProbes][kWarp];
  double partials[kClusterBlocks];
  /** Used in turns: before one is written again, all have met once more, and so have read it. */
  Exchange exchange[2];
  uint64_t band[2][kBandIds];
  int32_t band_count[2];
  /** All blocks' bands, as they were found and sorted. */
  uint64_t found[kBandIds], sorted[kBandIds];
};

/** Block `block` of the `kBlocks` that share a node. Every method is called by all threads of all of them, and returns the same in all. */
template <int kBlocks>
class NodeBlock {
 public:
  /** x: for this block's ids; sums: one for each kSumIds of them. */
  __device__ NodeBlock(Shared& shared_memory, uint32_t block, uint32_t vocab, uint32_t sums_each, float* x, double* sums)
      : shared(shared_memory), task(shared_memory.task), block_(block), vocab_(vocab), x_(x), sums_(sums) {
    const uint32_t all = (vocab + kSumIds - 1) / kSumIds, begin = min(block * sums_each, all);
    sum_count_ = min(sums_each, all - begin);
    first_ = begin * kSumIds;
  }

  __device__ void answer() {
    const uint64_t raw_best = copy_logits();
    int32_t chosen = rank_id(raw_best);
    float entropy = 0.0f, chosen_logprob = 0.0f;
    if (!task.is_plain) {
      if (task.logprobs >= 0) describe_raw(raw_best);
      adjust();
      chosen = choose(raw_best, &entropy);
      if (task.logprobs >= 0) chosen_logprob = shared.raw.logprob(task.logits, chosen);
    }
    meet();  // what others wrote of the results comes before the answer; and nobody leaves while others read its shared memory
    if (block_ == 0 && threadIdx.x == 0) {
      task.answer->chosen = chosen;
      task.answer->entropy = entropy;
      task.answer->chosen_logprob = chosen_logprob;
      __threadfence_system();
      *static_cast<volatile uint32_t*>(&task.answer->is_done) = 1;
    }
  }

 private:
  // ---- between threads and blocks ----

  /** What anyone wrote before is seen by all after. */
  __device__ void meet() {
    if (kBlocks == 1) {
      __syncthreads();
      return;
    }
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
  }

  /** The same place in another block's shared memory. */
  template <class T>
  __device__ const T* in_block(const T* mine, uint32_t block) const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if (kBlocks > 1) {
      const T* there;
      asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(mine), "r"(block));
      return there;
    }
#endif
    return mine;
  }

  __device__ uint64_t largest(uint64_t rank) {
    rank = warp_best(rank);
    __syncthreads();  // the ranks of the call before have been read
    if (lane() == 0) shared.ranks[warp()] = rank;
    __syncthreads();
    rank = warp_best(lane() < kWarps ? shared.ranks[lane()] : 0);
    if (kBlocks == 1) return rank;
    Exchange* mine = next_exchange();
    if (threadIdx.x == 0) mine->rank = rank;
    meet();
    return warp_best(lane() < kBlocks ? in_block(mine, lane())->rank : 0);
  }

  /** All blocks' `own`, in shared.partials, and their sum in order. `own` is the same in all threads of a block. */
  __device__ double share_partials(double own) {
    Exchange* mine = next_exchange();
    if (threadIdx.x == 0) mine->weights[0] = own;
    meet();
    if (threadIdx.x < kBlocks) shared.partials[threadIdx.x] = in_block(mine, threadIdx.x)->weights[0];
    __syncthreads();
    return ordered_sum(kBlocks, [&](uint32_t block) { return shared.partials[block]; });
  }

  __device__ double total(double value) {
    value = sum_of_lanes(value);
    __syncthreads();
    if (lane() == 0) shared.weights[0][warp()] = value;
    __syncthreads();
    return share_partials(sum_of_lanes(lane() < kWarps ? shared.weights[0][lane()] : 0.0));
  }

  __device__ Exchange* next_exchange() {
    turn_ ^= 1;
    return &shared.exchange[turn_];
  }

  __device__ static int lane() { return threadIdx.x % kWarp; }
  __device__ static int warp() { return threadIdx.x / kWarp; }

  // ---- ids ----

  __device__ uint32_t id_count() const { return sum_count_ * kSumIds; }
  __device__ bool owns(uint32_t id) const { return id - first_ < id_count(); }
  __device__ float& x_of(uint32_t id) const { return x_[id - first_]; }

  /** body(id, x) for this thread's share of the block's ids. */
  template <class Body>
  __device__ __forceinline__ void each_id(const Body& body) const {
    for (uint32_t i = 4 * threadIdx.x; i < id_count(); i += 4 * kThreads) {
      const float4 x = *reinterpret_cast<const float4*>(x_ + i);
      const uint32_t id = first_ + i;
      body(id, x.x);
      body(id + 1, x.y);
      body(id + 2, x.z);
      body(id + 3, x.w);
    }
  }

  /** The best rank of the logits as they came: that of -infinity or NaN only where there is nothing else. */
  __device__ uint64_t copy_logits() {
    constexpr uint32_t kUnroll = 16;
    const uint32_t end = id_count();
    uint32_t best = 0, at = first_ + threadIdx.x;
#pragma unroll 1
    for (uint32_t begin = threadIdx.x; begin < end; begin += kUnroll * kThreads) {
      float x[kUnroll];  // one by one: a row may begin anywhere
#pragma unroll
      for (uint32_t i = 0; i < kUnroll; ++i) {
        const uint32_t at_id = begin + i * kThreads;
        x[i] = at_id < end && first_ + at_id < vocab_ ? task.logits[first_ + at_id] : -INFINITY;
      }
#pragma unroll
      for (uint32_t i = 0; i < kUnroll; ++i) {
        const uint32_t at_id = begin + i * kThreads, bits = ordered_bits(bounded(x[i]));
        if (at_id >= end) break;
        if (bits > best && first_ + at_id < vocab_) {
          best = bits;
          at = first_ + at_id;
        }
        x_[at_id] = ordinary(x[i]);
      }
    }
    return largest(rank_of(best, at));  // its barriers: x is written
  }

  // ---- adjusted logits ----

  __device__ void penalise() {
    for (int64_t i = threadIdx.x; i < task.path_count; i += kThreads) {
      if (owns(task.path_ids[i])) task.path_logits[i] = x_of(task.path_ids[i]);
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; i < task.occurring_count; i += kThreads) {
      const int32_t id = task.occurring_ids[i];
      if (owns(id)) x_of(id) = penalised(task, x_of(id), task.occurring_counts[i]);
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; i < task.path_count; i += kThreads) {
      if (owns(task.path_ids[i])) x_of(task.path_ids[i]) = penalised(task, task.path_logits[i], task.path_counts[i]);
    }
    __syncthreads();
  }

  /** Equal ids of a bias are neighbours. */
  __device__ void adjust() {
    if (task.bias_count > 0) {
      for (int64_t i = threadIdx.x; i < task.bias_count; i += kThreads) {
        const int32_t id = task.bias_ids[i];
        if (!owns(id) || (i > 0 && task.bias_ids[i - 1] == id)) continue;
        float x = x_of(id);
        for (int64_t j = i; j < task.bias_count && task.bias_ids[j] == id; ++j) x = ordinary(__fadd_rn(x, task.bias_values[j]));
        x_of(id) = x;
      }
      __syncthreads();
    }
    if (task.has_penalties) penalise();
    if (task.suppressed_count > 0) {
      for (int64_t i = threadIdx.x; i < task.suppressed_count; i += kThreads) {
        if (owns(task.suppressed_ids[i])) x_of(task.suppressed_ids[i]) = -INFINITY;
      }
      __syncthreads();
    }
  }

  __device__ uint64_t best_rank() {
    uint32_t best = 0, at = 0;
    each_id([&](uint32_t id, float x) {
      const uint32_t bits = ordered_bits(x);
      if (bits <= best) return;
      best = bits;
      at = id;
    });
    return largest(rank_of(best, at));
  }

  // ---- weights ----

  /** Of kSumIds ids each, into sums; returns all of them, added up in id order. */
  __device__ double total_weight(const Weighing& weights_of) {
    constexpr uint32_t kStep = 4 * kWarp;
    __syncthreads();  // sums may still be read
    for (uint32_t sum = warp(); sum < sum_count_; sum += kWarps) {
      double weights = 0.0;
#pragma unroll
      for (uint32_t part = 0; part < kSumIds; part += kStep) {
        const uint32_t i = sum * kSumIds + part + 4 * lane(), id = first_ + i;
        const float4 x = *reinterpret_cast<const float4*>(x_ + i);
        weights += static_cast<double>(weights_of.weight(x.x, id)) + static_cast<double>(weights_of.weight(x.y, id + 1)) +
                   static_cast<double>(weights_of.weight(x.z, id + 2)) + static_cast<double>(weights_of.weight(x.w, id + 3));
      }
      weights = sum_of_lanes(weights);
      if (lane() == 0) sums_[sum] = weights;
    }
    __syncthreads();
    return share_partials(ordered_sum(sum_count_, [&](uint32_t sum) { return sums_[sum]; }));
  }

  /** With p = e / total and e = exp(y), -sum p ln p is ln total - sum e y / total. */
  __device__ float entropy_of(const Weighing& weights_of, double all) {
    double products = 0.0;
    each_id([&](uint32_t id, float x) {
      const float e = weights_of.weight(x, id);
      if (e > 0.0f) products += static_cast<double>(e) * static_cast<double>(weights_of.exponent(x));
    });
    const double entropy = log(all) - total(products) / all;
    return entropy > 0.0 ? static_cast<float>(entropy) : 0.0f;
  }

  // ---- cuts ----

  /** Of the ids above each probe, where `above` are those above `high`, and no probe is outside of [low, high]. */
  template <Measure kMeasure>
  __device__ void tally_probes(const Weighing& weights_of, float low, float high, const Tally& above, const float (&probes)[kProbes], Tally (&tallies)[kProbes]) {
    double weights[kProbes] = {};
    int32_t ids[kProbes] = {};
    each_id([&](uint32_t id, float x) {
      if (!(x > low && x <= high)) return;
      const double e = kMeasure == Measure::kWeight ? static_cast<double>(weights_of.weight(x, id)) : 0.0;
#pragma unroll
      for (int probe = 0; probe < kProbes; ++probe) {
        if (!(x > probes[probe])) continue;
        if (kMeasure == Measure::kWeight) weights[probe] += e;
        ids[probe] += 1;
      }
    });
    __syncthreads();  // shared may still be read
#pragma unroll
    for (int probe = 0; probe < kProbes; ++probe) {
      if (kMeasure == Measure::kWeight) weights[probe] = sum_of_lanes(weights[probe]);
      ids[probe] = sum_of_lanes(ids[probe]);
      if (lane() != 0) continue;
      shared.weights[probe][warp()] = weights[probe];
      shared.ids[probe][warp()] = ids[probe];
    }
    __syncthreads();
    Exchange* mine = next_exchange();
#pragma unroll
    for (int probe = 0; probe < kProbes; ++probe) {
      if (kMeasure == Measure::kWeight) weights[probe] = sum_of_lanes(lane() < kWarps ? shared.weights[probe][lane()] : 0.0);
      ids[probe] = sum_of_lanes(lane() < kWarps ? shared.ids[probe][lane()] : 0);
      if (kBlocks == 1 || threadIdx.x != 0) continue;
      mine->weights[probe] = weights[probe];
      mine->ids[probe] = ids[probe];
    }
    if (kBlocks > 1) meet();
    const Exchange* others = in_block(mine, lane() < kBlocks ? lane() : 0);
#pragma unroll
    for (int probe = 0; probe < kProbes; ++probe) {
      if (kBlocks > 1) {
        if (kMeasure == Measure::kWeight) weights[probe] = sum_of_lanes(lane() < kBlocks ? others->weights[probe] : 0.0);
        ids[probe] = sum_of_lanes(lane() < kBlocks ? others->ids[probe] : 0);
      }
      tallies[probe] = {above.weight + (kMeasure == Measure::kWeight ? weights[probe] : 0.0), above.ids + ids[probe]};
    }
  }

  /** Ids of which `is_wanted(id, x)` is true, best first, in shared.sorted; there are at most kBandIds. Returns how many. */
  template <class Wanted>
  __device__ int sort_ids(const Wanted& is_wanted) {
    band_turn_ ^= 1;
    uint64_t* band = shared.band[band_turn_];
    int32_t* band_count = &shared.band_count[band_turn_];
    __syncthreads();  // the list of the call before has been read
    if (threadIdx.x == 0) *band_count = 0;
    __syncthreads();
    each_id([&](uint32_t id, float x) {
      if (is_wanted(id, x)) band[atomicAdd(band_count, 1)] = rank_of(ordered_bits(x), id);
    });
    meet();
    int counts[kBlocks], count = 0;
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) counts[block] = *in_block(band_count, block);
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
      const uint64_t* there = in_block(band, block);
      if (static_cast<int>(threadIdx.x) < counts[block]) shared.found[count + threadIdx.x] = there[threadIdx.x];
      count += counts[block];
    }
    __syncthreads();
    // A rank's place is the number of larger ones: no two are equal.
    const int item = threadIdx.x / kRankers;
    int larger = 0;
    if (item < count) {
      for (int other = threadIdx.x % kRankers; other < count; other += kRankers) larger += shared.found[other] > shared.found[item] ? 1 : 0;
    }
#pragma unroll
    for (int step = kRankers / 2; step > 0; step /= 2) larger += __shfl_xor_sync(kAllLanes, larger, step);
    if (item < count && threadIdx.x % kRankers == 0) shared.sorted[larger] = shared.found[item];
    __syncthreads();
    return count;
  }

  /** Id of the `wanted`-th of those, in id order, whose logit is `value`. */
  __device__ uint32_t nth_equal(float value, double wanted) {
    const auto is_equal = [&](uint32_t i) { return first_ + i < vocab_ && x_[i] == value; };
    __syncthreads();
    for (uint32_t sum = warp(); sum < sum_count_; sum += kWarps) {
      int count = 0;
      for (uint32_t i = sum * kSumIds + lane(); i < (sum + 1) * kSumIds; i += kWarp) count += is_equal(i) ? 1 : 0;
      count = sum_of_lanes(count);
      if (lane() == 0) sums_[sum] = count;
    }
    __syncthreads();
    share_partials(ordered_sum(sum_count_, [&](uint32_t sum) { return sums_[sum]; }));
    return search<false>(wanted, [&](uint32_t i) { return is_equal(i) ? 1.0 : 0.0; });
  }

  /** The first id at which values so far go beyond the target; value_at(i) of a block's i-th id, sums and partials are of the values. */
  template <bool kExceeds, class Value>
  __device__ uint32_t search(double target, const Value& value_at) {
    const Found block = first_beyond<kExceeds>(kBlocks, 0.0, target, [&](uint32_t i) { return shared.partials[i]; });
    uint32_t id = 0;
    if (block.index == block_) {
      const Found sum = first_beyond<kExceeds>(sum_count_, block.before, target, [&](uint32_t i) { return sums_[i]; });
      const uint32_t begin = sum.index * kSumIds;
      id = first_ + begin + first_beyond<kExceeds>(kSumIds, sum.before, target, [&](uint32_t i) { return value_at(begin + i); }).index;
    }
    return static_cast<uint32_t>(kBlocks == 1 ? id : largest(id));
  }

  /**
   * The cut behind the fewest best ids that measure at least `wanted` together, which is above 0 and at most what all measure: so many ids, or the
   * weight `all`. `width`: a first guess how far below the top it is.
   */
  template <Measure kMeasure>
  __device__ Cut find_cut(const Weighing& weights_of, float width, double wanted, double all) {
    // Too few ids are above `high`, enough are above `low`: of all at least, whose number is not needed.
    const float top = weights_of.top;
    float high = top, low = -INFINITY;
    Tally above_high{0.0, 0}, above_low{all, INT32_MAX};
    float probes[kProbes] = {top - 2.0f * width, top - 6.0f * width, kMeasure == Measure::kIds ? -INFINITY : top - 20.0f * width};
    Tally tallies[kProbes];
    tally_probes<kMeasure>(weights_of, probes[kProbes - 1], high, above_high, probes, tallies);
    if (kMeasure == Measure::kIds) {
      const double missing = wanted - measured<kMeasure>(tallies[kProbes - 1]);
      if (missing > 0.0) return {-INFINITY, nth_equal(-INFINITY, missing)};
      above_low = tallies[kProbes - 1];
    }
    for (;;) {
#pragma unroll
      for (int probe = 0; probe < kProbes; ++probe) {
        if (measured<kMeasure>(tallies[probe]) < wanted) {
          if (probes[probe] < high) {
            high = probes[probe];
            above_high = tallies[probe];
          }
        } else if (probes[probe] > low) {
          low = probes[probe];
          above_low = tallies[probe];
        }
      }
      if (above_low.ids - above_high.ids <= kBandIds) break;
      const float middle = middle_of(low, high);
      if (!(middle > low && middle < high)) {
        // More ids than can be sorted, and all the same: so many of them as are missing.
        const double each = kMeasure == Measure::kIds ? 1.0 : static_cast<double>(expf(weights_of.exponent(high)));
        const double missing = ceil((wanted - measured<kMeasure>(above_high)) / each);
        return {high, nth_equal(high, fmax(missing, 1.0))};
      }
      // Thirds of the interval, and its middle in floats, which is another one where it is many powers of two wide.
#pragma unroll
      for (int probe = 0; probe < kProbes - 1; ++probe) {
        const float part = static_cast<float>(probe + 1) / kProbes, value = low * (1.0f - part) + high * part;
        probes[probe] = value > low && value < high ? value : middle;
      }
      probes[kProbes - 1] = middle;
      tally_probes<kMeasure>(weights_of, low, high, above_high, probes, tallies);
    }

    const int count = sort_ids([&](uint32_t, float x) { return x > low && x <= high; });
    uint32_t at = static_cast<uint32_t>(wanted) - static_cast<uint32_t>(above_high.ids) - 1;
    if (kMeasure == Measure::kWeight) {
      at = first_beyond<false>(count, above_high.weight, wanted, [&](uint32_t i) {
             return static_cast<double>(weights_of.weight(rank_value(shared.sorted[i]), static_cast<uint32_t>(rank_id(shared.sorted[i]))));
           }).index;
    }
    const uint64_t last = shared.sorted[at];
    return {rank_value(last), static_cast<uint32_t>(rank_id(last))};
  }

  /** Makes `weights_of` drop what top-k, top-p and min-p do not keep. */
  __device__ void truncate(Weighing* weights_of) {
    const float width = task.temperature;  // from one power of e to the next
    if (task.top_k > 0 && task.top_k < vocab_) weights_of->kept = find_cut<Measure::kIds>(*weights_of, width, static_cast<double>(task.top_k), 0.0);
    if (task.top_p < 1.0f) {
      const double all = total_weight(*weights_of), wanted = static_cast<double>(task.top_p) * all;
      const Cut cut = find_cut<Measure::kWeight>(*weights_of, width, wanted > 0.0 ? wanted : DBL_MIN, all), kept = weights_of->kept;
      if (cut.value > kept.value || (cut.value == kept.value && cut.last_id < kept.last_id)) weights_of->kept = cut;
    }
    if (task.min_p > 0.0f) weights_of->least = fminf(task.min_p, 1.0f);  // the best weighs 1
  }

  // ---- results ----

  /** Fills shared.raw from x as copied; writes the results that do not wait for the chosen token. */
  __device__ void describe_raw(uint64_t best) {
    RawDistribution raw{rank_value(best), 0.0, -1};
    const bool any_finite = static_cast<uint32_t>(best >> 32) > kOrderedLowest;
    if (any_finite) {
      raw.log_total = log(total_weight({raw.top, 1.0f, everything(), 0.0f}));
    } else {
      raw.top = -INFINITY;
      raw.only_id = rank_id(best);
    }
    if (threadIdx.x == 0) shared.raw = raw;

    const int wanted = static_cast<int>(min(static_cast<uint32_t>(task.logprobs), vocab_));
    if (wanted > 0) {
      const Cut cut = find_cut<Measure::kIds>({raw.top, 1.0f, everything(), 0.0f}, 1.0f, static_cast<double>(wanted), 0.0);
      sort_ids([&](uint32_t id, float x) { return id < vocab_ && cut.keeps(x, id); });
    }
    __syncthreads();  // x is adjusted only now
    if (block_ != 0) return;
    for (int64_t i = threadIdx.x; i < task.child_count; i += kThreads) task.child_logprob[i] = raw.logprob(task.logits, task.child_tokens[i]);
    for (int i = threadIdx.x; i < task.logprobs; i += kThreads) {
      const int32_t id = i < wanted ? rank_id(shared.sorted[i]) : -1;
      task.top_ids[i] = id;
      task.top_values[i] = id >= 0 ? raw.logprob(task.logits, id) : -INFINITY;
    }
  }

  /** Chooses from x as adjusted, and describes the distribution it chose from. `raw_best`: the best rank of the logits as they came. */
  __device__ int32_t choose(uint64_t raw_best, float* entropy) {
    const uint64_t best = is_adjusted(task) ? best_rank() : raw_best;
    if (static_cast<uint32_t>(best >> 32) <= kOrderedLowest) {
      const int32_t raw_id = rank_id(raw_best);
      if (task.typical && block_ == 0) {
        for (int64_t i = threadIdx.x; i < task.child_count; i += kThreads) task.child_prob[i] = task.child_tokens[i] == raw_id ? 1.0f : 0.0f;
      }
      return raw_id;
    }
    int32_t chosen = rank_id(best);
    const bool is_greedy = task.temperature == 0.0f;
    if (is_greedy && !task.typical) return chosen;

    Weighing weights_of{rank_value(best), is_greedy ? 1.0f : __fdiv_rn(1.0f, task.temperature), everything(), 0.0f};
    if (!is_greedy) truncate(&weights_of);
    const double all = total_weight(weights_of);
    if (!is_greedy) {
      const auto weight_at = [&](uint32_t i) { return static_cast<double>(weights_of.weight(x_[i], first_ + i)); };
      chosen = static_cast<int32_t>(search<true>(task.uniform * all, weight_at));
    }
    if (!task.typical) return chosen;
    *entropy = entropy_of(weights_of, all);
    for (int64_t i = threadIdx.x; i < task.child_count; i += kThreads) {
      const int32_t id = task.child_tokens[i];
      if (owns(id)) task.child_prob[i] = static_cast<float>(static_cast<double>(weights_of.weight(x_of(id), id)) / all);
    }
    return chosen;
  }

  Shared& shared;
  const NodeTask& task;
  /** Which of the blocks this is; the first of its ids, and how many sums it has. */
  uint32_t block_, first_, sum_count_;
  uint32_t vocab_;
  float* x_;
  double* sums_;
  int turn_ = 0, band_turn_ = 0;
};

/** What a launch keeps of a node besides its arguments. */
struct RowPlan {
  /** Of kSumIds ids, for each block. */
  uint32_t sums_each;
  /** Whether x is in shared memory. */
  bool is_shared;
  /** f32 of scratch for a block: its sums, and x if that is not in shared memory. */
  int64_t block_floats;
};

/** Cluster n, or block n, owns node n. Two blocks of a cluster fit on a multiprocessor: 64 nodes are one wave. */
template <int kBlocks>
__global__ void __launch_bounds__(kThreads, kBlocks == 1 ? 1 : 2) posterior_node_kernel(const __grid_constant__ NodeTasks tasks, float* scratch, RowPlan plan, uint32_t vocab) {
  __shared__ Shared shared;
  extern __shared__ float4 row[];
  let_next_start();
  wait_for_previous();
  if (threadIdx.x == 0) shared.task = tasks.nodes[blockIdx.y];
  __syncthreads();
  float* own = scratch + (static_cast<int64_t>(blockIdx.y) * kBlocks + blockIdx.x) * plan.block_floats;
  float* x = plan.is_shared ? reinterpret_cast<float*>(row) : own + (2 * plan.sums_each + 3) / 4 * 4;
  NodeBlock<kBlocks>(shared, blockIdx.x, vocab, plan.sums_each, x, reinterpret_cast<double*>(own)).answer();
}

// ---- the process's side ----

void pause_once() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/** Until `done()`, which looks at page-locked memory. A device that has failed will never write there: now and then it is asked. */
template <class Done>
Status watch(CudaContext& context, const Done& done) {
  constexpr int kLooks = 4096;
  for (;;) {
    for (int i = 0; i < kLooks; ++i) {
      if (done()) return {};
      pause_once();
    }
    const cudaError_t state = cudaStreamQuery(context.stream);
    if (state == cudaSuccess) {
      if (done()) return {};
      return {StatusCode::kInternal, "posterior: the device is done and has not answered."};
    }
    if (state != cudaErrorNotReady) return cuda_status(state, "posterior");
    std::this_thread::yield();
  }
}

template <class T>
T seen(const T* value) {
  return __atomic_load_n(value, __ATOMIC_ACQUIRE);
}

Status choose_greedily(PosteriorNode* nodes, int64_t count, int64_t vocab, CudaContext& context) {
  const int64_t wanted = 2 * static_cast<int64_t>(context.multiprocessors) / count, useful = divide_up(vocab, kLeastSlice);
  const int64_t slices = wanted < 1 ? 1 : wanted < useful ? wanted : useful, slice = divide_up(vocab, slices);
  uint64_t* ranks = nullptr;
  GORGON_TRY(context.pinned(count * slices * static_cast<int64_t>(sizeof(uint64_t)), reinterpret_cast<void**>(&ranks)));
  std::memset(ranks, 0, count * slices * sizeof(uint64_t));
  GreedyRows rows{};
  for (int64_t n = 0; n < count; ++n) rows.logits[n] = nodes[n].logits;
  const dim3 grid(static_cast<unsigned>(slices), static_cast<unsigned>(count));
  GORGON_TRY(launch(context, "posterior", posterior_greedy_slices_kernel, grid, dim3(kGreedyThreads), 0, rows, vocab, slice, ranks));

  for (int64_t n = 0; n < count; ++n) {
    uint64_t best = 0;
    for (int64_t s = 0; s < slices; ++s) {
      const uint64_t* rank = ranks + n * slices + s;
      GORGON_TRY(watch(context, [&] { return seen(rank) != 0; }));
      best = *rank > best ? *rank : best;
    }
    nodes[n].chosen = rank_id(best);
  }
  return {};
}

/** Arrays one behind the other: measured the first time through, copied the second. */
struct Staged {
  std::byte* host;
  std::byte* device;
  int64_t bytes = 0;

  /** `count` values, at `from` or not yet anything; where they are on the device. */
  template <class T>
  T* add(const T* from, int64_t count) {
    if (count == 0) return nullptr;
    const int64_t at = bytes;
    bytes += round_up(count * static_cast<int64_t>(sizeof(T)), 16);
    if (host == nullptr) return nullptr;
    if (from != nullptr) std::memcpy(host + at, from, count * sizeof(T));
    return reinterpret_cast<T*>(device + at);
  }
  template <class T>
  T* host_of(T* on_device) const {
    return reinterpret_cast<T*>(host + (reinterpret_cast<std::byte*>(on_device) - device));
  }
};

/** Ids of a session's prompt and output, and times they are in the output: few of all there are. */
struct Occurring {
  const uint8_t* in_prompt;
  const int32_t* output_counts;
  std::vector<int32_t> ids;
  std::vector<float> counts;
  const int32_t* device_ids = nullptr;
  const float* device_counts = nullptr;
};

Occurring occurring_of(const PosteriorNode& node, int64_t vocab) {
  // Most ids do not occur: 64 at a time are looked at, as vectors can, and then those that do are picked out of eight at a time.
  constexpr int64_t kTogether = 64, kWord = 8;
  Occurring found{node.in_prompt, node.output_counts, {}, {}};
  for (int64_t first = 0; first < vocab; first += kTogether) {
    const int64_t here = first + kTogether < vocab ? kTogether : vocab - first;
    uint8_t any[kTogether] = {};
    if (node.in_prompt != nullptr) {
      for (int64_t i = 0; i < here; ++i) any[i] = node.in_prompt[first + i] != 0 ? 1 : 0;
    }
    if (node.output_counts != nullptr) {
      for (int64_t i = 0; i < here; ++i) any[i] |= node.output_counts[first + i] > 0 ? 1 : 0;
    }
    for (int64_t word = 0; word < kTogether; word += kWord) {
      uint64_t eight = 0;
      std::memcpy(&eight, any + word, kWord);
      if (eight == 0) continue;
      for (int64_t id = first + word; id < first + word + kWord; ++id) {
        if (any[id - first] == 0) continue;
        const int32_t count = node.output_counts != nullptr ? node.output_counts[id] : 0;
        found.ids.push_back(static_cast<int32_t>(id));
        found.counts.push_back(static_cast<float>(count > 0 ? count : 0));
      }
    }
  }
  return found;
}

/** The path's ids, each once, and times they are in output and path. */
void count_path(const PosteriorNode& node, std::vector<int32_t>* ids, std::vector<float>* counts) {
  ids->clear();
  counts->clear();
  for (int64_t i = 0; i < node.path_count; ++i) {
    const int32_t id = node.path_tokens[i];
    const auto at = std::find(ids->begin(), ids->end(), id);
    if (at != ids->end()) {
      (*counts)[at - ids->begin()] += 1.0f;
      continue;
    }
    ids->push_back(id);
    const int32_t committed = node.output_counts != nullptr ? node.output_counts[id] : 0;
    counts->push_back(committed > 0 ? static_cast<float>(committed) + 1.0f : 1.0f);
  }
}

/** Of a session's sampling, on the device: its nodes share them. */
struct SharedArrays {
  const SamplingParams* sampling = nullptr;
  const int32_t* bias_ids = nullptr;
  const float* bias_values = nullptr;
  const int32_t* suppressed_ids = nullptr;
};

/** Equal ids next to each other, in the order they came: insertion, as they nearly always are sorted already. */
void group_ids(int32_t* ids, float* values, int64_t count) {
  for (int64_t i = 1; i < count; ++i) {
    const int32_t id = ids[i];
    const float value = values[i];
    int64_t at = i;
    for (; at > 0 && ids[at - 1] > id; --at) {
      ids[at] = ids[at - 1];
      values[at] = values[at - 1];
    }
    ids[at] = id;
    values[at] = value;
  }
}

/** What the nodes point to, and, the second time through, `tasks`. Results lie in page-locked memory, in the order of the nodes. */
void stage(const PosteriorNode* nodes, int64_t count, std::vector<Occurring>& sessions, const std::vector<int32_t>& session_of, Staged& inputs, Staged& results,
           NodeTask* tasks) {
  NodeAnswer* answers = results.add<NodeAnswer>(nullptr, count);
  const bool is_copying = inputs.host != nullptr;
  for (Occurring& session : sessions) {
    session.device_ids = inputs.add(session.ids.data(), static_cast<int64_t>(session.ids.size()));
    session.device_counts = inputs.add(session.counts.data(), static_cast<int64_t>(session.counts.size()));
  }
  SharedArrays last;
  std::vector<int32_t> own_path_ids;
  std::vector<float> own_path_counts;
  for (int64_t n = 0; n < count; ++n) {
    const PosteriorNode& node = nodes[n];
    const SamplingParams& sampling = *node.sampling;
    if (node.sampling != last.sampling) {
      last.sampling = node.sampling;
      int32_t* ids = inputs.add(sampling.bias_ids, sampling.bias_count);
      float* values = inputs.add(sampling.bias_values, sampling.bias_count);
      if (is_copying && sampling.bias_count > 0) group_ids(inputs.host_of(ids), inputs.host_of(values), sampling.bias_count);
      last.bias_ids = ids;
      last.bias_values = values;
      last.suppressed_ids = inputs.add(sampling.suppressed_ids, sampling.suppressed_count);
    }
    const bool is_penalised = session_of[n] >= 0;
    if (is_penalised) count_path(node, &own_path_ids, &own_path_counts);
    const int64_t path_count = is_penalised ? static_cast<int64_t>(own_path_ids.size()) : 0;
    const int32_t* path_ids = inputs.add(own_path_ids.data(), path_count);
    const float* path_counts = inputs.add(own_path_counts.data(), path_count);
    float* path_logits = inputs.add<float>(nullptr, path_count);
    const int64_t child_count = node.typical || node.logprobs >= 0 ? node.child_count : 0;
    const int32_t* child_tokens = inputs.add(node.child_tokens, child_count);
    const int64_t best = node.logprobs > 0 ? node.logprobs : 0;
    float* child_prob = results.add<float>(nullptr, child_count);
    float* child_logprob = results.add<float>(nullptr, child_count);
    int32_t* top_ids = results.add<int32_t>(nullptr, best);
    float* top_values = results.add<float>(nullptr, best);
    if (!is_copying) continue;

    NodeTask task{};
    task.logits = node.logits;
    task.uniform = sampling_uniform(sampling.seed, static_cast<uint64_t>(node.position));
    task.temperature = sampling.temperature;
    task.top_p = sampling.top_p;
    task.min_p = sampling.min_p;
    task.top_k = sampling.top_k;
    task.repetition_penalty = sampling.repetition_penalty;
    task.frequency_penalty = sampling.frequency_penalty;
    task.presence_penalty = sampling.presence_penalty;
    task.logprobs = node.logprobs;
    task.is_plain = is_plain_greedy(node);
    task.has_penalties = is_penalised;
    task.typical = node.typical;
    task.bias_ids = last.bias_ids;
    task.bias_values = last.bias_values;
    task.bias_count = sampling.bias_count;
    task.suppressed_ids = last.suppressed_ids;
    task.suppressed_count = is_suppressing(node) ? sampling.suppressed_count : 0;
    if (is_penalised) {
      const Occurring& session = sessions[session_of[n]];
      task.occurring_ids = session.device_ids;
      task.occurring_counts = session.device_counts;
      task.occurring_count = static_cast<int64_t>(session.ids.size());
    }
    task.path_ids = path_ids;
    task.path_counts = path_counts;
    task.path_logits = path_logits;
    task.path_count = path_count;
    task.child_tokens = child_tokens;
    task.child_count = child_count;
    task.answer = answers + n;
    task.child_prob = child_prob;
    task.child_logprob = child_logprob;
    task.top_ids = top_ids;
    task.top_values = top_values;
    tasks[n] = task;
  }
}

void take_results(PosteriorNode& node, const NodeTask& task) {
  node.chosen = task.answer->chosen;
  if (node.typical) {
    node.entropy = task.answer->entropy;
    if (node.child_count > 0) std::memcpy(node.child_prob, task.child_prob, node.child_count * sizeof(float));
  }
  if (node.logprobs < 0) return;
  node.chosen_logprob = task.answer->chosen_logprob;
  if (node.child_count > 0) std::memcpy(node.child_logprob, task.child_logprob, node.child_count * sizeof(float));
  if (node.logprobs == 0) return;
  std::memcpy(node.top_ids, task.top_ids, node.logprobs * sizeof(int32_t));
  std::memcpy(node.top_values, task.top_values, node.logprobs * sizeof(float));
}

/** As launch() of cuda_context.h, of clusters. */
template <int kBlocks>
Status launch_nodes(CudaContext& context, int64_t count, const NodeTasks& tasks, float* scratch, const RowPlan& plan, int64_t vocab) {
  const auto kernel = posterior_node_kernel<kBlocks>;
  const int64_t shared_bytes = plan.is_shared ? plan.sums_each * kSumIds * static_cast<int64_t>(sizeof(float)) : 0;
  GORGON_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(kMostShared)), "posterior");
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = kBlocks;
  attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(kBlocks, static_cast<unsigned>(count));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = context.stream;
  config.attrs = attributes;
  config.numAttrs = !context.hopper ? 0 : kBlocks == 1 ? 1 : 2;
  return cuda_status(cudaLaunchKernelEx(&config, kernel, tasks, scratch, plan, static_cast<uint32_t>(vocab)), "posterior");
}

Status choose_from_rows(PosteriorNode* nodes, int64_t count, int64_t vocab, CudaContext& context) {
  // Memory that grows forgets recordings: a few more nodes or tokens must not make it grow.
  constexpr int64_t kNodeStep = 16, kInputStep = int64_t{1} << 18;
  std::vector<Occurring> sessions;
  std::vector<int32_t> session_of(count, -1);
  for (int64_t n = 0; n < count; ++n) {
    const PosteriorNode& node = nodes[n];
    if (!has_penalties(*node.sampling)) continue;
    const auto is_its = [&](const Occurring& session) { return session.in_prompt == node.in_prompt && session.output_counts == node.output_counts; };
    const auto at = std::find_if(sessions.begin(), sessions.end(), is_its);
    session_of[n] = static_cast<int32_t>(at - sessions.begin());
    if (at == sessions.end()) sessions.push_back(occurring_of(node, vocab));
  }
  Staged inputs{}, results{};
  stage(nodes, count, sessions, session_of, inputs, results, nullptr);
  const bool is_clustered = context.hopper && vocab >= kLeastClustered;
  const int64_t blocks = is_clustered ? kClusterBlocks : 1, sums_each = divide_up(divide_up(vocab, int64_t{kSumIds}), blocks);
  const int64_t row_floats = sums_each * kSumIds;
  const bool is_shared = row_floats * static_cast<int64_t>(sizeof(float)) <= kMostShared;
  const RowPlan plan{static_cast<uint32_t>(sums_each), is_shared, round_up(2 * sums_each, 4) + (is_shared ? 0 : row_floats)};
  const int64_t input_bytes = round_up(inputs.bytes, kInputStep);
  const int64_t node_bytes = blocks * plan.block_floats * static_cast<int64_t>(sizeof(float));
  std::byte *scratch = nullptr, *pinned = nullptr;
  GORGON_TRY(context.scratch(input_bytes + round_up(count, kNodeStep) * node_bytes, &scratch));
  GORGON_TRY(context.pinned(input_bytes + results.bytes, reinterpret_cast<void**>(&pinned)));

  // The device's pointers to page-locked memory are the process's.
  inputs = {pinned, scratch};
  results = {pinned + input_bytes, pinned + input_bytes};
  NodeTasks tasks{};
  stage(nodes, count, sessions, session_of, inputs, results, tasks.nodes);
  for (int64_t n = 0; n < count; ++n) tasks.nodes[n].answer->is_done = 0;
  if (inputs.bytes > 0) GORGON_CUDA_TRY(cudaMemcpyAsync(scratch, pinned, inputs.bytes, cudaMemcpyHostToDevice, context.stream), "posterior");
  float* rows = reinterpret_cast<float*>(scratch + input_bytes);
  const auto launch_any = is_clustered ? launch_nodes<kClusterBlocks> : launch_nodes<1>;
  GORGON_TRY(launch_any(context, count, tasks, rows, plan, vocab));
  for (int64_t n = 0; n < count; ++n) {
    GORGON_TRY(watch(context, [&] { return seen(&tasks.nodes[n].answer->is_done) != 0; }));
    take_results(nodes[n], tasks.nodes[n]);
  }
  return {};
}

}  // namespace

Status posterior_cuda(const PosteriorArgs& args, CudaContext& context) {
  GORGON_TRY(check_posterior(args));
  for (int64_t first = 0; first < args.node_count; first += kMostNodes) {
    PosteriorNode* nodes = args.nodes + first;
    const int64_t left = args.node_count - first, count = left < kMostNodes ? left : kMostNodes;
    bool all_plain = true;
    for (int64_t n = 0; n < count; ++n) all_plain = all_plain && is_plain_greedy(nodes[n]);
    GORGON_TRY(all_plain ? choose_greedily(nodes, count, args.vocab, context) : choose_from_rows(nodes, count, args.vocab, context));
  }
  return {};
}

}  // namespace gorgon

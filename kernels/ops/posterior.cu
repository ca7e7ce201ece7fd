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
// Otherwise a block of 512 threads owns a node. What the host knows of it is an argument of the launch; only arrays (counts, paths, biases)
// go to the device in a copy before. The block
// keeps one array, x f32 [V'], the adjusted logits; V' is V rounded up to 256, -infinity past V. For V = 32000 that is half of a
// multiprocessor's L1 cache, which makes a pass over it cheap (about 1 us), and it is passed over again and again:
//
//   adjust -> best rank -> cut of top-k -> sum of weights -> cut of top-p -> sums of weights per 256 ids -> draw within one of these
//
// Weights are not kept: the exponential is computed anew where it is needed. What is kept of the ids is no array either but a cut, the
// (value, id) where they end in the order of ranks. It is found by passes that measure what lies above four values at once, inside an interval
// that becomes smaller until the ids in it can be sorted. Only ids in that interval cost more than two comparisons.
//
// Every sum has an order that depends on V alone: within a thread its own ids, then lanes, then warps. Sums in id order (the draw, the sorted
// ids) are made by each warp for itself, which is cheaper than one of them telling the others.
#include "ops/posterior.h"

#include <cfloat>
#include <cmath>
#include <cstring>
#include <thread>

#include "common/cuda_context.h"
#include "common/device.cuh"
#include "common/packed.h"
#include "ops/top_k.h"

namespace gorgon {

namespace {

/** Nodes of a launch. */
constexpr int64_t kMostNodes = 64;

// ---- ranks: the one order of ids, larger logit first, ties to the lower id, NaN last; ops/best_list.h is the same on the CPU ----

constexpr uint32_t kOrderedLowest = 0x007fffffu;  // of -infinity

/** Bits whose unsigned order is the order of floats; -0 counts as 0, NaN is below everything. */
__device__ __forceinline__ uint32_t ordered_bits(float value) {
  if (value != value) return 0;
  const uint32_t bits = __float_as_uint(value + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float ordered_float(uint32_t bits) { return __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits); }

__device__ __forceinline__ uint64_t rank_of(uint32_t bits, uint32_t id) { return static_cast<uint64_t>(bits) << 32 | (0xffffffffu - id); }
__host__ __device__ __forceinline__ int32_t rank_id(uint64_t rank) { return static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(rank)); }
__device__ __forceinline__ float rank_value(uint64_t rank) { return ordered_float(static_cast<uint32_t>(rank >> 32)); }

/** +infinity counts as the largest float; NaN stays. */
__device__ __forceinline__ float bounded(float x) { return x > FLT_MAX ? FLT_MAX : x; }
/** NaN as -infinity, too. */
__device__ __forceinline__ float ordinary(float x) { return x != x ? -INFINITY : bounded(x); }

__device__ __forceinline__ uint64_t warp_largest(uint64_t rank) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const uint64_t other = __shfl_xor_sync(kAllLanes, rank, step);
    rank = other > rank ? other : rank;
  }
  return rank;
}

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
  uint64_t rank = warp_largest(rank_of(best, at));
  if (lane == 0) partials[warp] = rank;
  __syncthreads();
  if (warp > 0) return;
  rank = warp_largest(lane < kGreedyThreads / kWarp ? partials[lane] : 0);
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
  const uint8_t* in_prompt;
  const int32_t* output_counts;
  const int32_t* path_tokens;
  /** Room for the logits of path_tokens without penalties. */
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

// ---- a block's row ----

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarp;
static_assert(kWarps <= kWarp, "a warp reduces what the warps have found, one value for each lane");
/** Loads of four ids that a thread has under way before it uses the first. */
constexpr uint32_t kBatch = 4;
/** Ids whose weights make one sum. */
constexpr uint32_t kSumIds = 256;
/** Values whose tallies one pass makes. */
constexpr int kProbes = 4;
/** Ids that are sorted rather than measured; each is compared with the others by kThreads / kBandIds threads. */
constexpr int kBandIds = 256;
constexpr int kRankers = kThreads / kBandIds;
static_assert(kMaxTopK <= kBandIds && kSumIds % kWarp == 0);

struct Row {
  float* x;
  /** [V' / kSumIds]. */
  double* sums;
  uint32_t vocab;

  __device__ uint32_t sum_count() const { return (vocab + kSumIds - 1) / kSumIds; }
  __device__ uint32_t padded() const { return sum_count() * kSumIds; }
};

struct Shared {
  uint64_t ranks[kWarps];
  double weights[kProbes][kWarps];
  int32_t ids[kProbes][kWarps];
  uint64_t band[kBandIds], sorted[kBandIds];
  int32_t band_count;
};

/** body(id, x) for this thread's share of the ids up to V'. */
template <class Body>
__device__ __forceinline__ void each_id(const Row& row, const Body& body) {
  constexpr uint32_t kStep = 4 * kThreads;
  const uint32_t end = row.padded();
  for (uint32_t begin = 4 * threadIdx.x; begin < end; begin += kBatch * kStep) {
    float4 x[kBatch];
#pragma unroll
    for (uint32_t i = 0; i < kBatch; ++i) {
      if (begin + i * kStep < end) x[i] = *reinterpret_cast<const float4*>(row.x + begin + i * kStep);
    }
#pragma unroll
    for (uint32_t i = 0; i < kBatch; ++i) {
      const uint32_t id = begin + i * kStep;
      if (id >= end) break;
      body(id, x[i].x);
      body(id + 1, x[i].y);
      body(id + 2, x[i].z);
      body(id + 3, x[i].w);
    }
  }
}

/** In every thread; all of the block call it. */
__device__ uint64_t block_largest(uint64_t rank, Shared& shared) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  rank = warp_largest(rank);
  __syncthreads();  // the ranks of the call before have been read
  if (lane == 0) shared.ranks[warp] = rank;
  __syncthreads();
  return warp_largest(lane < kWarps ? shared.ranks[lane] : 0);
}

template <class T>
__device__ __forceinline__ T sum_of_lanes(T value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

__device__ double block_total(double value, Shared& shared) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  value = sum_of_lanes(value);
  __syncthreads();
  if (lane == 0) shared.weights[0][warp] = value;
  __syncthreads();
  return sum_of_lanes(lane < kWarps ? shared.weights[0][lane] : 0.0);
}

// ---- sums in order: a warp's lanes own neighbouring items ----

struct LaneItems {
  uint32_t begin, end;
};

__device__ __forceinline__ LaneItems lane_items(uint32_t count) {
  const uint32_t each = (count + kWarp - 1) / kWarp, begin = min(each * (threadIdx.x % kWarp), count);
  return {begin, min(begin + each, count)};
}

/** The sums of all lanes before this one, added in order to `start`; `all` becomes that of all lanes. */
__device__ __forceinline__ double before_lane(double start, double own, double* all) {
  const int lane = threadIdx.x % kWarp;
  double sum = start, before = start;
#pragma unroll
  for (int other = 0; other < kWarp; ++other) {
    if (other == lane) before = sum;
    sum += __shfl_sync(kAllLanes, own, other);
  }
  *all = sum;
  return before;
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

// ---- adjusted logits ----

/** The best rank of the logits as they came: that of -infinity or NaN only where there is nothing else. */
__device__ uint64_t copy_logits(const float* logits, const Row& row, Shared& shared) {
  uint32_t best = 0, at = threadIdx.x;
  constexpr uint32_t kUnroll = 16;
#pragma unroll 1
  for (uint32_t begin = threadIdx.x; begin < row.padded(); begin += kUnroll * kThreads) {
    float x[kUnroll];  // one by one: a row may begin anywhere
#pragma unroll
    for (uint32_t i = 0; i < kUnroll; ++i) {
      const uint32_t id = begin + i * kThreads;
      x[i] = id < row.vocab ? logits[id] : -INFINITY;
    }
#pragma unroll
    for (uint32_t i = 0; i < kUnroll; ++i) {
      const uint32_t id = begin + i * kThreads, bits = ordered_bits(bounded(x[i]));
      if (bits > best && id < row.vocab) {
        best = bits;
        at = id;
      }
      if (id < row.padded()) row.x[id] = ordinary(x[i]);
    }
  }
  return block_largest(rank_of(best, at), shared);  // its barriers: x is written
}

/** Each operation rounded by itself. count: times the id is in the output; -1 where it is not in the prompt either. */
__device__ __forceinline__ float penalised(const NodeTask& task, float x, float count) {
  if (count < 0.0f) return x;
  const float repeated = ordinary(x > 0.0f ? __fdiv_rn(x, task.repetition_penalty) : __fmul_rn(x, task.repetition_penalty));
  if (count == 0.0f) return repeated;
  return ordinary(__fsub_rn(ordinary(__fsub_rn(repeated, __fmul_rn(task.frequency_penalty, count))), task.presence_penalty));
}

__device__ __forceinline__ float committed_count(const NodeTask& task, uint32_t id) {
  const int32_t count = task.output_counts != nullptr ? task.output_counts[id] : 0;
  if (count > 0) return static_cast<float>(count);
  return task.in_prompt != nullptr && task.in_prompt[id] != 0 ? 0.0f : -1.0f;
}

__device__ void penalise(const NodeTask& task, const Row& row) {
  for (int64_t i = threadIdx.x; i < task.path_count; i += kThreads) task.path_logits[i] = row.x[task.path_tokens[i]];
  __syncthreads();
  if (task.output_counts != nullptr || task.in_prompt != nullptr) {
    for (uint32_t id = threadIdx.x; id < row.vocab; id += kThreads) row.x[id] = penalised(task, row.x[id], committed_count(task, id));
  }
  __syncthreads();
  // Tokens of the path again, with their counts: by the first of those that are equal.
  for (int64_t i = threadIdx.x; i < task.path_count; i += kThreads) {
    const int32_t id = task.path_tokens[i];
    float count = fmaxf(committed_count(task, id), 0.0f);
    bool is_first = true;
    for (int64_t j = 0; j < task.path_count; ++j) {
      if (task.path_tokens[j] != id) continue;
      count += 1.0f;
      is_first = is_first && j >= i;
    }
    if (is_first) row.x[id] = penalised(task, task.path_logits[i], count);
  }
  __syncthreads();
}

__device__ __forceinline__ bool is_adjusted(const NodeTask& task) { return task.bias_count > 0 || task.has_penalties || task.suppressed_count > 0; }

/** Equal ids of a bias are neighbours. */
__device__ void adjust(const NodeTask& task, const Row& row) {
  if (task.bias_count > 0) {
    for (int64_t i = threadIdx.x; i < task.bias_count; i += kThreads) {
      const int32_t id = task.bias_ids[i];
      if (i > 0 && task.bias_ids[i - 1] == id) continue;
      float x = row.x[id];
      for (int64_t j = i; j < task.bias_count && task.bias_ids[j] == id; ++j) x = ordinary(__fadd_rn(x, task.bias_values[j]));
      row.x[id] = x;
    }
    __syncthreads();
  }
  if (task.has_penalties) penalise(task, row);
  if (task.suppressed_count > 0) {
    for (int64_t i = threadIdx.x; i < task.suppressed_count; i += kThreads) row.x[task.suppressed_ids[i]] = -INFINITY;
    __syncthreads();
  }
}

__device__ uint64_t best_rank(const Row& row, Shared& shared) {
  uint32_t best = 0, at = 0;
  each_id(row, [&](uint32_t id, float x) {
    const uint32_t bits = ordered_bits(x);
    if (bits <= best) return;
    best = bits;
    at = id;
  });
  return block_largest(rank_of(best, at), shared);
}

// ---- weights ----

/** Where kept ids end: they are those above `value`, and those at `value` up to `last_id`. */
struct Cut {
  float value;
  uint32_t last_id;

  __device__ bool keeps(float x, uint32_t id) const { return x > value || (x == value && id <= last_id); }
};

__device__ __forceinline__ Cut everything() { return {-INFINITY, UINT32_MAX}; }

/** What an id weighs: 1 for the best, 0 where it is dropped. */
struct Warp {
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

/** Of kSumIds ids each, into row.sums; returns all of them, added up in id order. */
__device__ double total_weight(const Row& row, const Warp& warp) {
  constexpr uint32_t kStep = 4 * kWarp, kParts = kSumIds / kStep;
  const uint32_t lane = threadIdx.x % kWarp, end = row.sum_count();
  __syncthreads();  // sums may still be read
  for (uint32_t begin = threadIdx.x / kWarp; begin < end; begin += kBatch * kWarps) {
    float4 x[kBatch][kParts];
#pragma unroll
    for (uint32_t i = 0; i < kBatch; ++i) {
#pragma unroll
      for (uint32_t part = 0; part < kParts; ++part) {
        if (begin + i * kWarps < end) x[i][part] = *reinterpret_cast<const float4*>(row.x + (begin + i * kWarps) * kSumIds + part * kStep + 4 * lane);
      }
    }
#pragma unroll
    for (uint32_t i = 0; i < kBatch; ++i) {
      const uint32_t sum = begin + i * kWarps;
      if (sum >= end) break;
      double weights = 0.0;
#pragma unroll
      for (uint32_t part = 0; part < kParts; ++part) {
        const uint32_t id = sum * kSumIds + part * kStep + 4 * lane;
        weights += static_cast<double>(warp.weight(x[i][part].x, id)) + static_cast<double>(warp.weight(x[i][part].y, id + 1)) +
                   static_cast<double>(warp.weight(x[i][part].z, id + 2)) + static_cast<double>(warp.weight(x[i][part].w, id + 3));
      }
      weights = sum_of_lanes(weights);
      if (lane == 0) row.sums[sum] = weights;
    }
  }
  __syncthreads();
  return ordered_sum(end, [&](uint32_t sum) { return row.sums[sum]; });
}

/** With p = e / total and e = exp(y), -sum p ln p is ln total - sum e y / total. */
__device__ float entropy_of(const Row& row, const Warp& warp, double total, Shared& shared) {
  double products = 0.0;
  each_id(row, [&](uint32_t id, float x) {
    const float e = warp.weight(x, id);
    if (e > 0.0f) products += static_cast<double>(e) * static_cast<double>(warp.exponent(x));
  });
  const double entropy = log(total) - block_total(products, shared) / total;
  return entropy > 0.0 ? static_cast<float>(entropy) : 0.0f;
}

// ---- cuts ----

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

/** Of the ids above each probe, where `above` are those above `high`, and no probe is outside of [low, high]. */
template <Measure kMeasure>
__device__ void tally_probes(const Row& row, const Warp& warp, float low, float high, const Tally& above, const float (&probes)[kProbes], Shared& shared,
                             Tally (&tallies)[kProbes]) {
  const int own_warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  double weights[kProbes] = {};
  int32_t ids[kProbes] = {};
  each_id(row, [&](uint32_t id, float x) {
    if (!(x > low && x <= high)) return;
    const double e = kMeasure == Measure::kWeight ? static_cast<double>(warp.weight(x, id)) : 0.0;
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
    if (lane != 0) continue;
    shared.weights[probe][own_warp] = weights[probe];
    shared.ids[probe][own_warp] = ids[probe];
  }
  __syncthreads();
#pragma unroll
  for (int probe = 0; probe < kProbes; ++probe) {
    tallies[probe].weight = above.weight + (kMeasure == Measure::kWeight ? sum_of_lanes(lane < kWarps ? shared.weights[probe][lane] : 0.0) : 0.0);
    tallies[probe].ids = above.ids + sum_of_lanes(lane < kWarps ? shared.ids[probe][lane] : 0);
  }
}

/** Ids in (low, high], best first, in shared.sorted; there are at most kBandIds. Returns how many. */
__device__ int sort_band(const Row& row, float low, float high, Shared& shared) {
  __syncthreads();
  if (threadIdx.x == 0) shared.band_count = 0;
  __syncthreads();
  each_id(row, [&](uint32_t id, float x) {
    if (x > low && x <= high) shared.band[atomicAdd(&shared.band_count, 1)] = rank_of(ordered_bits(x), id);
  });
  __syncthreads();
  // A rank's place is the number of larger ones: no two are equal.
  const int count = shared.band_count, item = threadIdx.x / kRankers;
  int larger = 0;
  if (item < count) {
    for (int other = threadIdx.x % kRankers; other < count; other += kRankers) larger += shared.band[other] > shared.band[item] ? 1 : 0;
  }
#pragma unroll
  for (int step = kRankers / 2; step > 0; step /= 2) larger += __shfl_xor_sync(kAllLanes, larger, step);
  if (item < count && threadIdx.x % kRankers == 0) shared.sorted[larger] = shared.band[item];
  __syncthreads();
  return count;
}

/** Id of the `wanted`-th of those, in id order, whose logit is `value`. */
__device__ uint32_t nth_equal(const Row& row, float value, double wanted) {
  const int lane = threadIdx.x % kWarp;
  const auto is_equal = [&](uint32_t id) { return id < row.vocab && row.x[id] == value; };
  __syncthreads();
  for (uint32_t sum = threadIdx.x / kWarp; sum < row.sum_count(); sum += kWarps) {
    int count = 0;
    for (uint32_t id = sum * kSumIds + lane; id < (sum + 1) * kSumIds; id += kWarp) count += is_equal(id) ? 1 : 0;
    count = sum_of_lanes(count);
    if (lane == 0) row.sums[sum] = count;
  }
  __syncthreads();
  const Found sum = first_beyond<false>(row.sum_count(), 0.0, wanted, [&](uint32_t i) { return row.sums[i]; });
  const uint32_t first = sum.index * kSumIds;
  return first + first_beyond<false>(kSumIds, sum.before, wanted, [&](uint32_t i) { return is_equal(first + i) ? 1.0 : 0.0; }).index;
}

/** Between the two, as many floats above one as below the other; one of them, or a zero that equals it, where there is none between. */
__device__ __forceinline__ float middle_of(float low, float high) {
  const uint32_t first = ordered_bits(low), last = ordered_bits(high);
  return ordered_float(first + (last - first) / 2);
}

/**
 * The cut behind the fewest best ids that measure at least `wanted` > 0 together; everything where all do not. `width`: a first guess how far
 * below the top it is.
 */
template <Measure kMeasure>
__device__ Cut find_cut(const Row& row, const Warp& warp, float width, double wanted, Shared& shared) {
  // Too few ids are above `high`, enough are above `low`.
  float high = warp.top, low = -INFINITY;
  Tally above_high{0.0, 0}, above_low{0.0, 0};
  float probes[kProbes] = {warp.top - width, warp.top - 3.0f * width, warp.top - 8.0f * width, -INFINITY};
  Tally tallies[kProbes];
  tally_probes<kMeasure>(row, warp, low, high, above_high, probes, shared, tallies);
  if (measured<kMeasure>(tallies[kProbes - 1]) < wanted) {
    if (kMeasure == Measure::kWeight) return everything();
    const double missing = wanted - measured<kMeasure>(tallies[kProbes - 1]);
    return {-INFINITY, nth_equal(row, -INFINITY, missing)};
  }
  above_low = tallies[kProbes - 1];
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
      const double each = kMeasure == Measure::kIds ? 1.0 : static_cast<double>(expf(warp.exponent(high)));
      const double missing = ceil((wanted - measured<kMeasure>(above_high)) / each);
      return {high, nth_equal(row, high, fmax(missing, 1.0))};
    }
    // Quarters of the interval, and its middle in floats, which is another one where it is many powers of two wide.
#pragma unroll
    for (int probe = 0; probe < kProbes - 1; ++probe) {
      const float part = 0.25f * static_cast<float>(probe + 1), value = low * (1.0f - part) + high * part;
      probes[probe] = value > low && value < high ? value : middle;
    }
    probes[kProbes - 1] = middle;
    tally_probes<kMeasure>(row, warp, low, high, above_high, probes, shared, tallies);
  }

  const int count = sort_band(row, low, high, shared);
  uint32_t at = static_cast<uint32_t>(wanted) - static_cast<uint32_t>(above_high.ids) - 1;
  if (kMeasure == Measure::kWeight) {
    at = first_beyond<false>(count, above_high.weight, wanted, [&](uint32_t i) {
           return static_cast<double>(warp.weight(rank_value(shared.sorted[i]), static_cast<uint32_t>(rank_id(shared.sorted[i]))));
         }).index;
  }
  const uint64_t last = shared.sorted[at];
  return {rank_value(last), static_cast<uint32_t>(rank_id(last))};
}

/** Makes `warp` drop what top-k, top-p and min-p do not keep. */
__device__ void truncate(const NodeTask& task, const Row& row, Warp* warp, Shared& shared) {
  const float width = task.temperature;  // from one power of e to the next
  if (task.top_k > 0 && task.top_k < row.vocab) {
    warp->kept = find_cut<Measure::kIds>(row, *warp, width, static_cast<double>(task.top_k), shared);
  }
  if (task.top_p < 1.0f) {
    const double wanted = static_cast<double>(task.top_p) * total_weight(row, *warp);
    const Cut cut = find_cut<Measure::kWeight>(row, *warp, width, wanted > 0.0 ? wanted : DBL_MIN, shared);
    const bool is_closer = cut.value > warp->kept.value || (cut.value == warp->kept.value && cut.last_id < warp->kept.last_id);
    if (is_closer) warp->kept = cut;
  }
  if (task.min_p > 0.0f) warp->least = fminf(task.min_p, 1.0f);  // the best weighs 1
}

/** The first id at which the sum of weights exceeds uniform * total; row.sums are of these weights. */
__device__ uint32_t draw(const Row& row, const Warp& warp, double total, double uniform) {
  const double target = uniform * total;
  const Found sum = first_beyond<true>(row.sum_count(), 0.0, target, [&](uint32_t i) { return row.sums[i]; });
  const uint32_t first = sum.index * kSumIds;
  const auto weight_at = [&](uint32_t i) { return static_cast<double>(warp.weight(row.x[first + i], first + i)); };
  return first + first_beyond<true>(kSumIds, sum.before, target, weight_at).index;
}

// ---- log-probabilities: of the logits as they came ----

/** ln of a probability is (l - top) - ln of the sum of exp(l - top); where all logits are -infinity, one id has all the probability. */
struct RawDistribution {
  float top;
  double log_total;
  /** That id; -1 where any logit is finite. */
  int32_t only_id;

  __device__ float logprob(const float* logits, int32_t id) const {
    if (only_id >= 0) return id == only_id ? 0.0f : -INFINITY;
    return static_cast<float>(static_cast<double>(ordinary(logits[id])) - static_cast<double>(top) - log_total);
  }
};

/** Of row.x as copied; writes the results that do not wait for the chosen token. */
__device__ RawDistribution raw_distribution(const NodeTask& task, const Row& row, uint64_t best, Shared& shared) {
  RawDistribution raw{rank_value(best), 0.0, -1};
  const bool any_finite = static_cast<uint32_t>(best >> 32) > kOrderedLowest;
  if (any_finite) {
    raw.log_total = log(total_weight(row, {raw.top, 1.0f, everything(), 0.0f}));
  } else {
    raw.top = -INFINITY;
    raw.only_id = rank_id(best);
  }
  for (int64_t i = threadIdx.x; i < task.child_count; i += kThreads) task.child_logprob[i] = raw.logprob(task.logits, task.child_tokens[i]);

  const int64_t wanted = min(static_cast<int64_t>(task.logprobs), static_cast<int64_t>(row.vocab));
  if (wanted > 0) {
    const Warp warp{raw.top, 1.0f, everything(), 0.0f};
    const Cut cut = find_cut<Measure::kIds>(row, warp, 1.0f, static_cast<double>(wanted), shared);
    // The same as sort_band of the kept ids.
    __syncthreads();
    if (threadIdx.x == 0) shared.band_count = 0;
    __syncthreads();
    each_id(row, [&](uint32_t id, float x) {
      if (id < row.vocab && cut.keeps(x, id)) shared.band[atomicAdd(&shared.band_count, 1)] = rank_of(ordered_bits(x), id);
    });
    __syncthreads();
    for (int64_t i = threadIdx.x; i < wanted; i += kThreads) {
      int larger = 0;
      for (int64_t other = 0; other < wanted; ++other) larger += shared.band[other] > shared.band[i] ? 1 : 0;
      task.top_ids[larger] = rank_id(shared.band[i]);
      task.top_values[larger] = raw.logprob(task.logits, rank_id(shared.band[i]));
    }
  }
  for (int64_t i = wanted + threadIdx.x; i < task.logprobs; i += kThreads) {
    task.top_ids[i] = -1;
    task.top_values[i] = -INFINITY;
  }
  return raw;
}

// ---- a node ----

/** Chooses from row.x as adjusted, and describes the distribution it chose from. `raw_best`: the best rank of the logits as they came. */
__device__ int32_t choose(const NodeTask& task, const Row& row, uint64_t raw_best, float* entropy, Shared& shared) {
  const int32_t raw_id = rank_id(raw_best);
  const uint64_t best = is_adjusted(task) ? best_rank(row, shared) : raw_best;
  if (static_cast<uint32_t>(best >> 32) <= kOrderedLowest) {
    if (task.typical) {
      for (int64_t i = threadIdx.x; i < task.child_count; i += kThreads) task.child_prob[i] = task.child_tokens[i] == raw_id ? 1.0f : 0.0f;
    }
    return raw_id;
  }
  int32_t chosen = rank_id(best);
  const bool is_greedy = task.temperature == 0.0f;
  if (is_greedy && !task.typical) return chosen;

  Warp warp{rank_value(best), is_greedy ? 1.0f : __fdiv_rn(1.0f, task.temperature), everything(), 0.0f};
  if (!is_greedy) truncate(task, row, &warp, shared);
  const double total = total_weight(row, warp);
  if (!is_greedy) chosen = static_cast<int32_t>(draw(row, warp, total, task.uniform));
  if (!task.typical) return chosen;
  *entropy = entropy_of(row, warp, total, shared);
  for (int64_t i = threadIdx.x; i < task.child_count; i += kThreads) {
    const int32_t id = task.child_tokens[i];
    task.child_prob[i] = static_cast<float>(static_cast<double>(warp.weight(row.x[id], id)) / total);
  }
  return chosen;
}

/** Block n owns node n; `rows` f32 [N, stride]: its x, and behind it its sums. */
__global__ void __launch_bounds__(kThreads) posterior_node_kernel(const __grid_constant__ NodeTasks tasks, float* rows, int64_t stride, uint32_t vocab) {
  __shared__ Shared shared;
  __shared__ NodeTask task;
  __shared__ RawDistribution raw;
  let_next_start();
  wait_for_previous();
  if (threadIdx.x == 0) task = tasks.nodes[blockIdx.x];
  __syncthreads();
  float* x = rows + blockIdx.x * stride;
  Row row{x, nullptr, vocab};
  row.sums = reinterpret_cast<double*>(x + row.padded());

  const uint64_t raw_best = copy_logits(task.logits, row, shared);
  int32_t chosen = rank_id(raw_best);
  float entropy = 0.0f, chosen_logprob = 0.0f;
  if (!task.is_plain) {
    if (task.logprobs >= 0) {
      const RawDistribution found = raw_distribution(task, row, raw_best, shared);
      if (threadIdx.x == 0) raw = found;
      __syncthreads();  // x is adjusted only now
    }
    adjust(task, row);
    chosen = choose(task, row, raw_best, &entropy, shared);
    if (task.logprobs >= 0) chosen_logprob = raw.logprob(task.logits, chosen);
  }
  __syncthreads();  // what others wrote of the results comes before the answer
  if (threadIdx.x == 0) {
    task.answer->chosen = chosen;
    task.answer->entropy = entropy;
    task.answer->chosen_logprob = chosen_logprob;
    __threadfence_system();
    *static_cast<volatile uint32_t*>(&task.answer->is_done) = 1;
  }
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

/** The arrays of a session, which its nodes share. */
struct SharedArrays {
  const uint8_t* in_prompt = nullptr;
  const uint8_t* device_in_prompt = nullptr;
  const int32_t* output_counts = nullptr;
  const int32_t* device_output_counts = nullptr;
  const SamplingParams* sampling = nullptr;
  const int32_t* device_bias_ids = nullptr;
  const float* device_bias_values = nullptr;
  const int32_t* device_suppressed_ids = nullptr;
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
void stage(const PosteriorNode* nodes, int64_t count, int64_t vocab, Staged& inputs, Staged& results, NodeTask* tasks) {
  NodeAnswer* answers = results.add<NodeAnswer>(nullptr, count);
  const bool is_copying = inputs.host != nullptr;
  SharedArrays last;
  for (int64_t n = 0; n < count; ++n) {
    const PosteriorNode& node = nodes[n];
    const SamplingParams& sampling = *node.sampling;
    if (node.sampling != last.sampling) {
      last.sampling = node.sampling;
      int32_t* ids = inputs.add(sampling.bias_ids, sampling.bias_count);
      float* values = inputs.add(sampling.bias_values, sampling.bias_count);
      if (is_copying && sampling.bias_count > 0) group_ids(inputs.host_of(ids), inputs.host_of(values), sampling.bias_count);
      last.device_bias_ids = ids;
      last.device_bias_values = values;
      last.device_suppressed_ids = inputs.add(sampling.suppressed_ids, sampling.suppressed_count);
    }
    const bool needs_counts = has_penalties(sampling);
    if (needs_counts && node.in_prompt != nullptr && node.in_prompt != last.in_prompt) {
      last.in_prompt = node.in_prompt;
      last.device_in_prompt = inputs.add(node.in_prompt, vocab);
    }
    if (needs_counts && node.output_counts != nullptr && node.output_counts != last.output_counts) {
      last.output_counts = node.output_counts;
      last.device_output_counts = inputs.add(node.output_counts, vocab);
    }
    const int32_t* path_tokens = needs_counts ? inputs.add(node.path_tokens, node.path_count) : nullptr;
    float* path_logits = needs_counts ? inputs.add<float>(nullptr, node.path_count) : nullptr;
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
    task.has_penalties = needs_counts;
    task.typical = node.typical;
    task.bias_ids = last.device_bias_ids;
    task.bias_values = last.device_bias_values;
    task.bias_count = sampling.bias_count;
    task.suppressed_ids = last.device_suppressed_ids;
    task.suppressed_count = is_suppressing(node) ? sampling.suppressed_count : 0;
    task.in_prompt = node.in_prompt != nullptr ? last.device_in_prompt : nullptr;
    task.output_counts = node.output_counts != nullptr ? last.device_output_counts : nullptr;
    task.path_tokens = path_tokens;
    task.path_logits = path_logits;
    task.path_count = needs_counts ? node.path_count : 0;
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

Status choose_from_rows(PosteriorNode* nodes, int64_t count, int64_t vocab, CudaContext& context) {
  // Memory that grows forgets recordings: a few more nodes or tokens must not make it grow.
  constexpr int64_t kNodeStep = 16, kInputStep = int64_t{1} << 18;
  Staged inputs{}, results{};
  stage(nodes, count, vocab, inputs, results, nullptr);
  const int64_t padded = round_up(vocab, int64_t{kSumIds}), stride = round_up(padded + 2 * (padded / int64_t{kSumIds}), 4);
  const int64_t input_bytes = round_up(inputs.bytes, kInputStep);
  std::byte *scratch = nullptr, *pinned = nullptr;
  GORGON_TRY(context.scratch(input_bytes + round_up(count, kNodeStep) * stride * static_cast<int64_t>(sizeof(float)), &scratch));
  GORGON_TRY(context.pinned(input_bytes + results.bytes, reinterpret_cast<void**>(&pinned)));

  // The device's pointers to page-locked memory are the process's.
  inputs = {pinned, scratch};
  results = {pinned + input_bytes, pinned + input_bytes};
  NodeTasks tasks{};
  stage(nodes, count, vocab, inputs, results, tasks.nodes);
  for (int64_t n = 0; n < count; ++n) tasks.nodes[n].answer->is_done = 0;
  if (inputs.bytes > 0) GORGON_CUDA_TRY(cudaMemcpyAsync(scratch, pinned, inputs.bytes, cudaMemcpyHostToDevice, context.stream), "posterior");
  GORGON_TRY(launch(context, "posterior", posterior_node_kernel, dim3(static_cast<unsigned>(count)), dim3(kThreads), 0, tasks,
                    reinterpret_cast<float*>(scratch + input_bytes), stride, vocab));
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

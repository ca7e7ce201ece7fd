// snapkv_select on CUDA: radix selection, the KV heads beside each other, a launch for each step, no step waiting inside of one.
//
//   clear     histograms to zero
//   score     votes -> pooled scores as ordered bits (keys, u32), and how many have which first 11 bits
//   refine    twice: the digit of the threshold from the histogram before; a histogram of the next 11, then 10 bits of those that share it
//   count     per tile of 2048 rows: how many are above the threshold, how many are at it
//   emit      per tile: counts of the tiles before -> where its rows go; ties until there are enough
//
//   key   [31 first 21][20 second 10][9 third 0]
//
// Votes are read once, keys four times, mostly from L2: 128K rows of 8 heads are 4 MB of keys. Sums go in the contract's order (heads rising, then
// rows rising, then a division), so the kept rows are the CPU's. Histograms are sums of whole numbers: their order does not matter.
#include <algorithm>
#include <string>

#include "common/cuda_context.h"
#include "common/packed.h"
#include "ops/rank.cuh"
#include "ops/snapkv_select.h"

namespace gorgon {

namespace {

constexpr int kThreads = 256;
constexpr int kEach = 8;
constexpr int kTileRows = kThreads * kEach;
constexpr int kDigits = 3;
constexpr int kBins = 2048;
/** Blocks of a head that share the tiles among them while histograms are made: each adds its own to the head's once. */
constexpr int64_t kMaxBlocks = 128;
/** What shared memory holds of neighbours' scores, either side. */
constexpr int64_t kMaxReach = 8192;

__host__ __device__ constexpr int digit_shift(int digit) { return digit == 0 ? 21 : digit == 1 ? 10 : 0; }
__host__ __device__ constexpr uint32_t digit_mask(int digit) { return digit == 2 ? 1023u : 2047u; }

/** What is known of a head's threshold: the digits found, and how many rows of exactly these digits are wanted. */
struct Threshold {
  uint32_t prefix;
  uint32_t wanted;
};

/** Device memory of one call, all per KV head. */
struct Workspace {
  /** [n] */
  uint32_t* keys;
  /** [kDigits][kBins] */
  uint32_t* histograms;
  /** [kDigits + 1]: before each digit is known, and after the last. */
  Threshold* thresholds;
  /** [tiles]: rows above the threshold, and at it. */
  uint2* counts;
  int64_t n;
  int64_t tiles;
};

/** Sums of `value` over the threads before this one and over all; `partials` is shared, one per warp; all threads call it. */
__device__ __forceinline__ uint32_t sum_before(uint32_t value, uint32_t* partials, uint32_t* total) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  uint32_t upto = value;
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const uint32_t other = __shfl_up_sync(kAllLanes, upto, step);
    if (lane >= step) upto += other;
  }
  __syncthreads();  // partials may still be read from the call before
  if (lane == kWarp - 1) partials[warp] = upto;
  __syncthreads();
  uint32_t before = 0, all = 0;
  for (int other = 0; other < kThreads / kWarp; ++other) {
    if (other < warp) before += partials[other];
    all += partials[other];
  }
  *total = all;
  return before + upto - value;
}

/** The threshold with one digit more, found by all threads of a block: bins from the largest down until `wanted` rows are reached. */
__device__ __forceinline__ Threshold next_threshold(const uint32_t* histogram, Threshold known, int digit, uint32_t* partials) {
  __shared__ Threshold found;
  constexpr int kBinsEach = kBins / kThreads;
  const int top = kBins - 1 - static_cast<int>(threadIdx.x) * kBinsEach;
  uint32_t bins[kBinsEach], own = 0;
#pragma unroll
  for (int i = 0; i < kBinsEach; ++i) own += bins[i] = histogram[top - i];
  uint32_t total;
  uint32_t before = sum_before(own, partials, &total);
#pragma unroll
  for (int i = 0; i < kBinsEach; ++i) {
    if (before < known.wanted && known.wanted <= before + bins[i]) {
      found = {known.prefix | static_cast<uint32_t>(top - i) << digit_shift(digit), known.wanted - before};
    }
    before += bins[i];
  }
  __syncthreads();  // found is written by one thread
  return found;
}

__device__ __forceinline__ void clear_bins(uint32_t* bins) {
  for (int bin = threadIdx.x; bin < kBins; bin += kThreads) bins[bin] = 0;
}

/** Adds a block's histogram to its head's. */
__device__ __forceinline__ void add_bins(const uint32_t* bins, uint32_t* histogram) {
  for (int bin = threadIdx.x; bin < kBins; bin += kThreads) {
    if (bins[bin] != 0) atomicAdd(histogram + bin, bins[bin]);
  }
}

__global__ void __launch_bounds__(kThreads) snapkv_select_clear_kernel(uint32_t* histograms, int64_t count) {
  let_next_start();
  wait_for_previous();
  const int64_t bin = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (bin < count) histograms[bin] = 0;
}

/** The group's votes of rows j, j + kThreads, …, `kEach` of them, as one each. */
__device__ __forceinline__ void group_votes(const SnapkvSelectArgs& args, int64_t kv_head, int64_t j, float (&scores)[kEach]) {
  const int64_t group = args.query_heads / args.kv_heads;
  const bool is_max = args.group_reduce == GroupReduce::kMax;
  const float* votes = args.votes + kv_head * group * args.votes_stride;
#pragma unroll
  for (int i = 0; i < kEach; ++i) scores[i] = j + i * kThreads < args.n ? votes[j + i * kThreads] : 0.0f;
#pragma unroll 2
  for (int64_t h = 1; h < group; ++h) {
    votes += args.votes_stride;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const float vote = j + i * kThreads < args.n ? votes[j + i * kThreads] : 0.0f;
      scores[i] = is_max ? (vote > scores[i] ? vote : scores[i]) : scores[i] + vote;
    }
  }
  if (is_max) return;
#pragma unroll
  for (int i = 0; i < kEach; ++i) scores[i] /= static_cast<float>(group);
}

/** grid (blocks of a head, heads); shared: the scores of a tile and of `reach` rows either side. */
__global__ void __launch_bounds__(kThreads) snapkv_select_score_kernel(SnapkvSelectArgs args, Workspace space, int64_t reach) {
  extern __shared__ float scores[];
  __shared__ uint32_t bins[kBins];
  let_next_start();
  clear_bins(bins);
  wait_for_previous();
  const int64_t kv_head = blockIdx.y;
  uint32_t* keys = space.keys + kv_head * args.n;
  const bool is_max = args.pool == Pool::kMax;
  for (int64_t tile = blockIdx.x; tile < space.tiles; tile += gridDim.x) {
    const int64_t begin = tile * kTileRows, low = begin > reach ? begin - reach : 0;
    const int64_t end = begin + kTileRows < args.n ? begin + kTileRows : args.n, high = end + reach < args.n ? end + reach : args.n;
    __syncthreads();  // the scores of the tile before are used, and the bins are clear
    for (int64_t j = low + threadIdx.x; j < high; j += kTileRows) {
      float group[kEach];
      group_votes(args, kv_head, j, group);
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        if (j + i * kThreads < high) scores[j + i * kThreads - low] = group[i];
      }
    }
    __syncthreads();  // the tile's scores and its neighbours' are there
    for (int64_t j = begin + threadIdx.x; j < end; j += kThreads) {
      const int first = static_cast<int>((j > reach ? j - reach : 0) - low), last = static_cast<int>((j + reach < args.n ? j + reach : args.n - 1) - low);
      float pooled = scores[first];
      for (int i = first + 1; i <= last; ++i) pooled = is_max ? (scores[i] > pooled ? scores[i] : pooled) : pooled + scores[i];
      const uint32_t key = ordered_bits(is_max ? pooled : pooled / static_cast<float>(args.pool_size));
      keys[j] = key;
      atomicAdd(bins + (key >> digit_shift(0)), 1u);
    }
  }
  __syncthreads();  // all of the block's rows are counted
  add_bins(bins, space.histograms + kv_head * kDigits * kBins);
  if (blockIdx.x == 0 && threadIdx.x == 0) space.thresholds[kv_head * (kDigits + 1)] = {0, static_cast<uint32_t>(args.count)};
}

/** Looks at the block's keys [begin, end), all of a thread's loaded before the first is looked at. */
template <class Look>
__device__ __forceinline__ void each_key(const uint32_t* keys, int64_t begin, int64_t end, const Look& look) {
  uint32_t held[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int64_t j = begin + i * kThreads + threadIdx.x;
    held[i] = j < end ? keys[j] : 0;
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (begin + i * kThreads + threadIdx.x < end) look(held[i]);
  }
}

/** Finds digit `digit - 1` of the threshold, then counts digit `digit` of the keys that agree with it so far. grid as score's. */
__global__ void __launch_bounds__(kThreads) snapkv_select_refine_kernel(Workspace space, int digit) {
  __shared__ uint32_t bins[kBins], partials[kThreads / kWarp];
  let_next_start();
  clear_bins(bins);
  wait_for_previous();
  const int64_t kv_head = blockIdx.y;
  uint32_t* histograms = space.histograms + kv_head * kDigits * kBins;
  Threshold* thresholds = space.thresholds + kv_head * (kDigits + 1);
  const Threshold threshold = next_threshold(histograms + (digit - 1) * kBins, thresholds[digit - 1], digit - 1, partials);
  if (blockIdx.x == 0 && threadIdx.x == 0) thresholds[digit] = threshold;
  const int known_shift = digit_shift(digit - 1), shift = digit_shift(digit);
  const uint32_t* keys = space.keys + kv_head * space.n;
  for (int64_t tile = blockIdx.x; tile < space.tiles; tile += gridDim.x) {
    each_key(keys, tile * kTileRows, min((tile + 1) * kTileRows, space.n), [&](uint32_t key) {
      if (key >> known_shift == threshold.prefix >> known_shift) atomicAdd(bins + (key >> shift & digit_mask(digit)), 1u);
    });
  }
  __syncthreads();  // all of the block's keys are counted
  add_bins(bins, histograms + digit * kBins);
}

/** grid (blocks of a head, heads) */
__global__ void __launch_bounds__(kThreads) snapkv_select_count_kernel(Workspace space) {
  __shared__ uint32_t partials[kThreads / kWarp];
  let_next_start();
  wait_for_previous();
  const int64_t kv_head = blockIdx.y;
  Threshold* thresholds = space.thresholds + kv_head * (kDigits + 1);
  const uint32_t* histogram = space.histograms + (kv_head * kDigits + kDigits - 1) * kBins;
  const Threshold threshold = next_threshold(histogram, thresholds[kDigits - 1], kDigits - 1, partials);
  if (blockIdx.x == 0 && threadIdx.x == 0) thresholds[kDigits] = threshold;
  for (int64_t tile = blockIdx.x; tile < space.tiles; tile += gridDim.x) {
    uint32_t above = 0, at = 0;
    each_key(space.keys + kv_head * space.n, tile * kTileRows, min((tile + 1) * kTileRows, space.n), [&](uint32_t key) {
      above += key > threshold.prefix;
      at += key == threshold.prefix;
    });
    uint32_t total;
    sum_before(above | at << 16, partials, &total);
    if (threadIdx.x == 0) space.counts[kv_head * space.tiles + tile] = make_uint2(total & 0xffffu, total >> 16);
  }
}

/** grid (tiles, heads) */
__global__ void __launch_bounds__(kThreads) snapkv_select_emit_kernel(Workspace space, int32_t* rows, int64_t rows_stride) {
  __shared__ uint32_t partials[kThreads / kWarp];
  let_next_start();
  wait_for_previous();
  const int64_t kv_head = blockIdx.y, tile = blockIdx.x;
  const Threshold threshold = space.thresholds[kv_head * (kDigits + 1) + kDigits];
  uint32_t above = 0, at = 0, unused;
  for (int64_t before = threadIdx.x; before < tile; before += kThreads) {
    const uint2 counts = space.counts[kv_head * space.tiles + before];
    above += counts.x;
    at += counts.y;
  }
  sum_before(above, partials, &above);
  sum_before(at, partials, &at);

  const uint32_t* keys = space.keys + kv_head * space.n;
  const int64_t begin = tile * kTileRows + static_cast<int64_t>(threadIdx.x) * kEach;
  uint32_t held[kEach], own = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    held[i] = begin + i < space.n ? keys[begin + i] : 0;
    if (begin + i < space.n) own += held[i] > threshold.prefix ? 1u : held[i] == threshold.prefix ? 1u << 16 : 0u;
  }
  const uint32_t before = sum_before(own, partials, &unused);
  above += before & 0xffffu;
  at += before >> 16;
  int32_t* to = rows + kv_head * rows_stride;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (begin + i >= space.n) break;
    const bool is_above = held[i] > threshold.prefix, is_at = held[i] == threshold.prefix;
    if (is_above || (is_at && at < threshold.wanted)) to[above + min(at, threshold.wanted)] = static_cast<int32_t>(begin + i);
    above += is_above;
    at += is_at;
  }
}

}  // namespace

Status snapkv_select_cuda(const SnapkvSelectArgs& args, CudaContext& context) {
  if (args.count == 0) return {};
  const int64_t reach = std::min(args.pool_size / 2, args.n);
  if (reach > kMaxReach) {
    return {StatusCode::kShape, "snapkv_select: the pool size is " + std::to_string(args.pool_size) + ". CUDA takes up to " + std::to_string(2 * kMaxReach + 1) + "."};
  }
  const int64_t tiles = divide_up(args.n, kTileRows), heads = args.kv_heads;
  const int64_t thresholds = heads * (kDigits + 1), counts = heads * tiles, bins = heads * kDigits * kBins, keys = heads * args.n;
  uint32_t* words = nullptr;
  GORGON_TRY(context.scratch(2 * thresholds + 2 * counts + bins + keys, &words));
  Workspace space{};
  space.thresholds = reinterpret_cast<Threshold*>(words);
  space.counts = reinterpret_cast<uint2*>(words + 2 * thresholds);
  space.histograms = words + 2 * thresholds + 2 * counts;
  space.keys = space.histograms + bins;
  space.n = args.n;
  space.tiles = tiles;

  const dim3 block(kThreads), shared_grid(static_cast<unsigned>(std::min(tiles, kMaxBlocks)), static_cast<unsigned>(heads));
  GORGON_TRY(launch(context, "snapkv_select", snapkv_select_clear_kernel, dim3(static_cast<unsigned>(divide_up(bins, kThreads))), block, 0, space.histograms, bins));
  GORGON_TRY(launch(context, "snapkv_select", snapkv_select_score_kernel, shared_grid, block, (kTileRows + 2 * reach) * static_cast<int64_t>(sizeof(float)), args,
                    space, reach));
  for (int digit = 1; digit < kDigits; ++digit) {
    GORGON_TRY(launch(context, "snapkv_select", snapkv_select_refine_kernel, shared_grid, block, 0, space, digit));
  }
  GORGON_TRY(launch(context, "snapkv_select", snapkv_select_count_kernel, shared_grid, block, 0, space));
  return launch(context, "snapkv_select", snapkv_select_emit_kernel, dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(heads)), block, 0, space, args.rows,
                args.rows_stride);
}

}  // namespace gorgon

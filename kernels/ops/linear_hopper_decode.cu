// Decode products on Hopper: up to 64 rows of activations times a weight that is read from memory once.
//
// The weight's rows are wgmma's 64 rows, the tokens its n = 8, 16, 32 or 64 columns. A unit of work is 128 rows of the weight by 64 of depth (two
// blocks, 16 KB) and the tokens' block of the same depth. Units are numbered tile after tile, each tile along its depth, and cut into one equal
// range per multiprocessor:
//
//     tile 0              tile 1              tile 2
//     |---- cta 0 ----|---- cta 1 ----|---- cta 2 ----|---- cta 3 ----|
//
// A CTA walks its tiles from the last to the first. The beginning of a tile that the next CTA ends is so multiplied first; its sums go to the
// L2. The CTA that has a tile's end comes to it last, adds the sums of the CTAs before it, nearest first, and writes the
// outputs. It waits for CTAs of lower numbers only, which have started before it. Where tiles are cut depends on the weight's shape and the
// number of multiprocessors alone, so a row's sums do not depend on the other rows. (A column of wgmma has the same bits for every n.)
//
//     warp 8      one thread: bulk copies through a ring of stages; weights are evicted first
//     warps 0-3   first 64 rows of the tile, warps 4-7 the other 64; sums in registers
//
// Launches overlap, so a CTA starts as soon as the one before it has left its multiprocessor, and its ring is full before the kernels between two
// products are done: weights do not depend on them. It must find room on one multiprocessor only. When two fitted, those of attention, which are
// fewer than multiprocessors, pushed 35 to 50 pairs together: a layer of Mistral took 149 us at 1 token and 189 at 64 instead of 127 and 163.
// Asking the L2 for more weights than the ring holds while the kernels between run was slower, by 4 to 17 us a layer.
#include <algorithm>

#include "common/hopper.cuh"
#include "common/wgmma.cuh"
#include "ops/linear_hopper.cuh"

namespace gorgon {
namespace {

constexpr int kTileRows = 128;
constexpr int kTileBlocks = kTileRows / static_cast<int>(kBlock);
constexpr int kMostTokens = 64;
constexpr int kConsumers = 256;
constexpr int kThreads = kConsumers + kWarp;
constexpr int kBlockBytes = static_cast<int>(kBlockElements) * 2;
constexpr int kUnitWeightBytes = kTileBlocks * kBlockBytes;
/** A tile of fewer units is not cut: the exchange of sums would cost more than it saves. */
constexpr int64_t kLeastCutUnits = 8;

/** Shared memory: a ring of stages, of weights and of n tokens, and a full and an empty barrier of each. */
template <int n>
struct Ring {
  static constexpr int kTokenBytes = n * static_cast<int>(kBlock) * 2;
  static constexpr int kStageBytes = kUnitWeightBytes + kTokenBytes;
  /** More than half of a multiprocessor's, so that two CTAs never share one. */
  static constexpr int kStages = 140 * 1024 / kStageBytes;
  static constexpr int kBarrierBytes = 128;
  static constexpr int64_t kBytes = kStages * kStageBytes + kBarrierBytes;
  static_assert(2 * kStages * sizeof(uint64_t) <= kBarrierBytes);
};

/** How the units are cut: CTA i has those from first_unit(i) to first_unit(i + 1). */
struct Cut {
  int64_t pieces;
  /** Units of a piece: 1, or all of a tile. */
  int64_t piece_units;
  int64_t tile_units;
};

#ifdef GORGON_SM90A

__device__ __forceinline__ int64_t first_unit(const Cut& cut, int64_t cta) { return cta * cut.pieces / gridDim.x * cut.piece_units; }

/** The units of a CTA in the order they are multiplied in. */
struct Walk {
  int64_t first;
  int64_t tile_units;
  int64_t left;
  int64_t tile;
  int64_t k;
  int64_t k_end;

  __device__ Walk(int64_t first, int64_t end, int64_t tile_units) : first(first), tile_units(tile_units), left(end - first) {
    if (left == 0) return;
    tile = (end - 1) / tile_units;
    k = max(first - tile * tile_units, int64_t{0});
    k_end = end - tile * tile_units;
  }
  __device__ void next() {
    --left;
    if (++k < k_end) return;
    --tile;
    k = max(first - tile * tile_units, int64_t{0});
    k_end = tile_units;
  }
};

// The exchange of sums. Thread i of a CTA adds those of threads i before it, n / 2 each as vectors of four, [n / 8][kConsumers], so that a warp's are
// side by side.
//
// Few sums (n <= 16) lie in the context's flags, which are zero between operations, and say themselves that they are there: each is written as the
// complement of its bits, which is not zero, and cleared by who has read it. That saves the round trips to the L2 that a flag takes. Many would be
// asked for again and again by all who wait, 32 KB each, and delay each other: they lie in scratch and have a flag per warp.

__device__ __forceinline__ uint32_t* sums_of(uint32_t* flags, int64_t cta) { return flags + (cta * (kTileRows * kMostTokens / 4) + threadIdx.x) * 4; }

/** Of one kind of NaN it makes another. */
__device__ __forceinline__ uint32_t complement(float sum) { return max(~__float_as_uint(sum), 1u); }

template <int n>
__device__ __forceinline__ void publish_sums(const float (&d)[n / 2], uint32_t* flags, int64_t cta) {
  uint32_t* const mine = sums_of(flags, cta);
#pragma unroll
  for (int i = 0; i < n / 8; ++i) {
    asm volatile("st.relaxed.gpu.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(mine + i * kConsumers * 4), "r"(complement(d[4 * i])), "r"(complement(d[4 * i + 1])),
                 "r"(complement(d[4 * i + 2])), "r"(complement(d[4 * i + 3]))
                 : "memory");
  }
}

/** Whether all four are there. */
__device__ __forceinline__ bool read_sums(const uint32_t* from, uint4* to) {
  asm volatile("ld.relaxed.gpu.global.v4.b32 {%0, %1, %2, %3}, [%4];" : "=r"(to->x), "=r"(to->y), "=r"(to->z), "=r"(to->w) : "l"(from) : "memory");
  return to->x != 0 && to->y != 0 && to->z != 0 && to->w != 0;
}

/** d += the sums of CTAs cta - 1 down to `from`. */
template <int n>
__device__ __forceinline__ void add_sums(float (&d)[n / 2], uint32_t* flags, int64_t from, int64_t cta) {
  // As many loads at once as there are registers for: a round trip to the L2 takes longer than all else here.
  constexpr int kTogether = 32 / n;
  for (int64_t last = cta - 1; last >= from; last -= kTogether) {
    uint4 part[kTogether][n / 8];
    // What is written last is waited for, so that the others are read twice only if they overtake each other.
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      const uint32_t* const theirs = sums_of(flags, max(last - j, from));
      while (!read_sums(theirs + (n / 8 - 1) * kConsumers * 4, &part[j][n / 8 - 1])) {
      }
    }
    bool ready;
    do {
      ready = true;
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        const uint32_t* const theirs = sums_of(flags, max(last - j, from));
#pragma unroll
        for (int i = 0; i < n / 8 - 1; ++i) ready = read_sums(theirs + i * kConsumers * 4, &part[j][i]) && ready;
      }
    } while (!ready);
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      if (last - j < from) break;
      uint32_t* const theirs = sums_of(flags, last - j);
#pragma unroll
      for (int i = 0; i < n / 8; ++i) {
        d[4 * i] += __uint_as_float(~part[j][i].x);
        d[4 * i + 1] += __uint_as_float(~part[j][i].y);
        d[4 * i + 2] += __uint_as_float(~part[j][i].z);
        d[4 * i + 3] += __uint_as_float(~part[j][i].w);
        *reinterpret_cast<uint4*>(theirs + i * kConsumers * 4) = make_uint4(0, 0, 0, 0);
      }
    }
  }
}

__device__ __forceinline__ float4* many_of(float* partials, int64_t cta) {
  return reinterpret_cast<float4*>(partials) + cta * (kTileRows * kMostTokens / 4) + threadIdx.x;
}
__device__ __forceinline__ uint32_t* flag_of(uint32_t* flags, int64_t cta) { return flags + cta * (kConsumers / kWarp) + threadIdx.x / kWarp; }

template <int n>
__device__ __forceinline__ void publish_many(const float (&d)[n / 2], float* partials, uint32_t* flags, int64_t cta) {
  float4* const mine = many_of(partials, cta);
#pragma unroll
  for (int i = 0; i < n / 8; ++i) __stcg(mine + i * kConsumers, make_float4(d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3]));
  __syncwarp();
  if (threadIdx.x % kWarp == 0) asm volatile("st.release.gpu.global.u32 [%0], 1;" ::"l"(flag_of(flags, cta)) : "memory");
}

/** As add_sums. */
template <int n>
__device__ __forceinline__ void add_many(float (&d)[n / 2], float* partials, uint32_t* flags, int64_t from, int64_t cta) {
  for (int64_t other = from + threadIdx.x % kWarp; other < cta; other += kWarp) {
    uint32_t* const flag = flag_of(flags, other);
    uint32_t ready;
    do {
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(ready) : "l"(flag) : "memory");
    } while (ready == 0);
    *flag = 0;
  }
  __syncwarp();
  // As many loads at once as there are registers for; a round trip to the L2 takes longer than all else here.
  constexpr int kTogether = n == 64 ? 2 : 64 / n;
  for (int64_t last = cta - 1; last >= from; last -= kTogether) {
    float4 part[kTogether][n / 8];
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      const float4* const theirs = many_of(partials, max(last - j, from));
#pragma unroll
      for (int i = 0; i < n / 8; ++i) part[j][i] = __ldcg(theirs + i * kConsumers);
    }
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      if (last - j < from) break;
#pragma unroll
      for (int i = 0; i < n / 8; ++i) {
        d[4 * i] += part[j][i].x;
        d[4 * i + 1] += part[j][i].y;
        d[4 * i + 2] += part[j][i].z;
        d[4 * i + 3] += part[j][i].w;
      }
    }
  }
}

/** What the outputs of a thread's column are made of besides their sums, for kStore and kAdd. */
template <int n>
struct Column {
  float scale, bias, old[n / 4];

  /** Ahead of the sums where registers allow, since a round trip to the L2 takes as long as theirs. */
  __device__ __forceinline__ void load(const HopperProduct& product, int64_t column, int lane) {
    const bool exists = column < product.columns;
    scale = exists && product.scale != nullptr ? product.scale[column] : 1.0f;
    bias = exists && product.bias != nullptr ? product.bias[column] : 0.0f;
#pragma unroll
    for (int i = 0; i < n / 4; ++i) {
      const int token = i / 2 * 8 + 2 * (lane % 4) + i % 2;
      const bool adds = exists && token < product.rows && product.epilogue == Epilogue::kAdd;
      old[i] = adds ? __ldcg(product.out + token * product.out_stride + column) : 0.0f;
    }
  }

  /** `half` of d: 0 is of this column, 1 of the one 8 further on. */
  __device__ __forceinline__ void store(const HopperProduct& product, const float (&d)[n / 2], int half, int64_t column, int lane) const {
    if (column >= product.columns) return;
#pragma unroll
    for (int i = 0; i < n / 4; ++i) {
      const int token = i / 2 * 8 + 2 * (lane % 4) + i % 2;
      const float value = d[i / 2 * 4 + half * 2 + i % 2] * scale + bias;
      if (token < product.rows) product.out[token * product.out_stride + column] = product.epilogue == Epilogue::kAdd ? old[i] + value : value;
    }
  }
};

/** silu(gate) * up, of which a thread holds both: rows `row` and `row` + 8 of a gated weight. */
template <class T, int n>
__device__ __forceinline__ void write_gated(const HopperProduct& product, const float (&d)[n / 2], int64_t row, int lane) {
  const int64_t feature = row / 16 * 8 + row % 8;
  const bool real = feature < product.width;
  const bool scaled = product.scale != nullptr && real, biased = product.bias != nullptr && real;
  const float gate_scale = scaled ? product.scale[row] : 1.0f, up_scale = scaled ? product.scale[row + 8] : 1.0f;
  const float gate_bias = biased ? product.bias[feature] : 0.0f, up_bias = biased ? product.bias[product.width + feature] : 0.0f;
  T* operand = static_cast<T*>(product.operand);
  const bool odd = lane / 4 % 2 != 0;
#pragma unroll
  for (int j = 0; j < n / 8; ++j) {
    float value[2];
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float gate = d[4 * j + e] * gate_scale + gate_bias, up = d[4 * j + 2 + e] * up_scale + up_bias;
      value[e] = real ? gated(gate, up) : 0.0f;
    }
    // Neighbouring features are four lanes apart. Each lane of the pair takes both of one token, and the warp writes a whole core.
    const float other = __shfl_xor_sync(kAllLanes, odd ? value[0] : value[1], 4);
    const int token = 8 * j + 2 * (lane % 4) + (odd ? 1 : 0);
    const int64_t pair_feature = feature - (odd ? 1 : 0);
    if (token < product.rows && pair_feature < product.width) {
      const uint32_t pair = odd ? pack_pair<T>(other, value[1]) : pack_pair<T>(value[0], other);
      *reinterpret_cast<uint32_t*>(operand + core_element(token, pair_feature, product.width)) = pair;
    }
  }
}

#endif  // GORGON_SM90A

/** Registers: rms_norm's 16 warps, which start early, fit beside the 9 of a CTA, of which one quarter of a multiprocessor has three. */
template <class T, int n>
__global__ __maxnreg__(n == 64 ? 104 : 80) void linear_stream_kernel(HopperProduct product, Cut cut, float* partials, uint32_t* flags) {
#ifdef GORGON_SM90A
  constexpr int kTokenBytes = Ring<n>::kTokenBytes;
  constexpr int kStages = Ring<n>::kStages;
  extern __shared__ __align__(128) std::byte shared[];
  std::byte* const weights = shared;
  std::byte* const tokens = shared + kStages * kUnitWeightBytes;
  uint64_t* const full = reinterpret_cast<uint64_t*>(tokens + kStages * kTokenBytes);
  uint64_t* const empty = full + kStages;

  let_next_start();
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t cta = blockIdx.x;
  const int64_t first = first_unit(cut, cta), end = first_unit(cut, cta + 1);
  if (threadIdx.x == kConsumers) {
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(&full[stage], 1);
      barrier_init(&empty[stage], kConsumers / kWarp);
    }
    barrier_init_done();
  }
  __syncthreads();

  if (warp == kConsumers / kWarp) {
    if (lane == 0) {
      const std::byte* const w = static_cast<const std::byte*>(product.w);
      const std::byte* const x = static_cast<const std::byte*>(product.x);
      const int64_t row_blocks = (product.columns + kBlock - 1) / kBlock;
      const auto weight_block = [&](const Walk& walk, int block) { return w + ((walk.tile * kTileBlocks + block) * cut.tile_units + walk.k) * kBlockBytes; };
      const auto bring_weights = [&](const Walk& walk, int stage) {
        const int blocks = static_cast<int>(min(int64_t{kTileBlocks}, row_blocks - walk.tile * kTileBlocks));
        barrier_expect(&full[stage], blocks * kBlockBytes + kTokenBytes);
        for (int block = 0; block < blocks; ++block) {
          bulk_copy(weights + stage * kUnitWeightBytes + block * kBlockBytes, weight_block(walk, block), kBlockBytes, &full[stage], kEvictFirst);
        }
      };
      const auto bring_tokens = [&](const Walk& walk, int stage) {
        bulk_copy(tokens + stage * kTokenBytes, x + walk.k * kBlockBytes, kTokenBytes, &full[stage], kEvictLast);
      };

      Walk ahead(first, end, cut.tile_units), at = ahead;
      for (int stage = 0; stage < kStages && ahead.left > 0; ++stage, ahead.next()) bring_weights(ahead, stage);
      wait_for_previous();
      for (int stage = 0; stage < kStages && at.left > 0; ++stage, at.next()) bring_tokens(at, stage);
      int stage = 0;
      uint32_t parity = 0;
      for (; at.left > 0; at.next()) {
        barrier_wait(&empty[stage], parity);
        bring_weights(at, stage);
        bring_tokens(at, stage);
        if (++stage == kStages) {
          stage = 0;
          parity ^= 1;
        }
      }
    } else {
      wait_for_previous();
    }
    return;
  }

  wait_for_previous();
  const int group = warp / 4;
  const int tile_row = group * static_cast<int>(kBlock) + warp % 4 * 16 + lane / 4;
  const uint32_t weights_address = shared_address(weights) + group * kBlockBytes, tokens_address = shared_address(tokens);
  int stage = 0;
  uint32_t parity = 0;
  for (int64_t unit_end = end; unit_end > first;) {
    const int64_t tile = (unit_end - 1) / cut.tile_units, tile_first = tile * cut.tile_units;
    const int64_t unit_first = max(first, tile_first);
    float d[n / 2];
    for (int64_t unit = unit_first; unit < unit_end; ++unit) {
      barrier_wait(&full[stage], parity);
      // Rows of cores are 1024 bytes apart, cores of a row 128; 16 of depth are two cores.
      const uint64_t a = wgmma_operand(weights_address + stage * kUnitWeightBytes, 128, 1024);
      const uint64_t b = wgmma_operand(tokens_address + stage * kTokenBytes, 128, 1024);
      wgmma_fence();
#pragma unroll
      for (int step = 0; step < 4; ++step) Wgmma<T, n>::run(d, a + step * (256 >> 4), b + step * (256 >> 4), unit > unit_first || step > 0);
      wgmma_commit();
      // At once, so that the stage can be filled again: the products of a unit take a third of the time that its weights take to come.
      wgmma_wait<0>();
      if (lane == 0) barrier_arrive(&empty[stage]);
      if (++stage == kStages) {
        stage = 0;
        parity ^= 1;
      }
    }

    // Nothing that reads the sums may move ahead of the wait, of which the compiler does not know that it is for them.
#pragma unroll
    for (int i = 0; i < n / 2; ++i) asm volatile("" : "+f"(d[i])::"memory");

    const int64_t row = tile * kTileRows + tile_row;
    if (unit_end < tile_first + cut.tile_units) {
      if constexpr (n >= 32) {
        publish_many<n>(d, partials, flags, cta);
      } else {
        publish_sums<n>(d, flags, cta);
      }
    } else {
      Column<n> columns[2];
      const bool gates = product.epilogue == Epilogue::kGate, early = n < 32 && !gates;
#pragma unroll
      for (int half = 0; half < 2 && early; ++half) columns[half].load(product, row + 8 * half, lane);
      if (unit_first > tile_first) {
        int64_t from = cta - 1;
        while (first_unit(cut, from) > tile_first) --from;
        if constexpr (n >= 32) {
          add_many<n>(d, partials, flags, from, cta);
        } else {
          add_sums<n>(d, flags, from, cta);
        }
      }
      if (gates) {
        write_gated<T, n>(product, d, row, lane);
      } else {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          if (!early) columns[half].load(product, row + 8 * half, lane);
          columns[half].store(product, d, half, row + 8 * half, lane);
        }
      }
    }
    unit_end = unit_first;
  }
#endif
}

template <class T, int n>
Status launch_stream(const HopperProduct& product, const Cut& cut, int64_t ctas, float* partials, CudaContext& context) {
  return launch(context, "linear_stream_kernel", linear_stream_kernel<T, n>, dim3(static_cast<unsigned>(ctas)), dim3(kThreads), Ring<n>::kBytes, product, cut,
                partials, context.flags);
}

}  // namespace

template <class T>
Status multiply_decode_hopper(const HopperProduct& product, CudaContext& context) {
  const int64_t tiles = (product.columns + kTileRows - 1) / kTileRows;
  Cut cut{};
  cut.tile_units = depth_blocks(product.depth);
  cut.piece_units = cut.tile_units <= kLeastCutUnits ? cut.tile_units : 1;
  cut.pieces = tiles * cut.tile_units / cut.piece_units;
  const int64_t least_units = cut.piece_units == 1 ? kLeastCutUnits / 2 : 1;
  const int64_t most_ctas = std::min<int64_t>(context.multiprocessors, CudaContext::kFlags / (kTileRows * kMostTokens));
  const int64_t ctas = std::min<int64_t>(most_ctas, std::max<int64_t>(1, cut.pieces / least_units));
  float* partials = nullptr;
  GORGON_TRY(context.scratch(most_ctas * kTileRows * kMostTokens, &partials));
  for (int64_t row = 0; row < product.rows; row += kMostTokens) {
    HopperProduct part = product;
    part.rows = std::min<int64_t>(kMostTokens, product.rows - row);
    part.x = static_cast<const T*>(product.x) + row / kBlock * depth_blocks(product.depth) * kBlockElements;
    if (product.epilogue == Epilogue::kGate) {
      part.operand = static_cast<T*>(product.operand) + row / kBlock * depth_blocks(product.width) * kBlockElements;
    } else {
      part.out = product.out + row * product.out_stride;
    }
    if (part.rows <= 8) {
      GORGON_TRY((launch_stream<T, 8>(part, cut, ctas, partials, context)));
    } else if (part.rows <= 16) {
      GORGON_TRY((launch_stream<T, 16>(part, cut, ctas, partials, context)));
    } else if (part.rows <= 32) {
      GORGON_TRY((launch_stream<T, 32>(part, cut, ctas, partials, context)));
    } else {
      GORGON_TRY((launch_stream<T, 64>(part, cut, ctas, partials, context)));
    }
  }
  return {};
}

template Status multiply_decode_hopper<__nv_bfloat16>(const HopperProduct&, CudaContext&);
template Status multiply_decode_hopper<__half>(const HopperProduct&, CudaContext&);

}  // namespace gorgon

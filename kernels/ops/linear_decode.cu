// Products of few rows by mma.sync: what streams weights where wgmma does not, and int8 weights everywhere.
//
// Weights are the 16-row side of m16n8k16, tokens its 8 columns: a weight is read once for up to 64 tokens, and every token meets the same
// instructions in the same order, however many there are. Nothing needs ldmatrix, because the order of depth within 32 is free as long as both
// sides agree: lane l takes depths 8 (l % 4) to + 7 of its row, which in cores are 16 neighbouring bytes, and a warp's 32 times 16 bytes are 512
// neighbouring ones.
//
//   a step: 64 rows x 256 of depth of the weight                    a lane's own ring in shared memory
//     depth  0     32    64          224   256                        [stage][weights | tokens], 16 bytes a lane at a time
//     rows  +-----+-----+-----+ ... +-----+                           filled by its own cp.async, read by itself:
//      64   | w0  | w1  | w2  |     | w7  |   warp w: 32 of depth      no barrier until the end of a tile
//           +-----+-----+-----+ ... +-----+
//
// Steps of all tiles (64 rows, all of depth) in row-major order are cut into equal ranges, one per block; the cut depends on the weight's shape
// and the device alone. At a tile's end the 8 warps' sums are added in the order of warps. Of a tile cut between blocks each writes its part
// to scratch memory, and whoever comes last adds them in the order of depth: nobody waits for another, so blocks need not run together.
//
// int8: a byte's low 7 bits become the mantissa of a bf16 number of [128, 256), from which 128 or, where the sign bit is set, 256 is taken:
// 7 instructions for 4 weights, all exact. The scale multiplies the sum.
#include "ops/linear_endings.cuh"

namespace gorgon {

namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * kWarp;
/** Of depth: what a warp takes of a step, and all warps. */
constexpr int kSliceDepth = 32;
constexpr int kTokens = 8;
/** Ring stages: 4 keep 64 KiB of int8 weights, and 3 keep 96 KiB of bf16, on their way to each multiprocessor; 33 KiB would cover the latency. */
constexpr int kLeastStages = 2, kMostStages = 4;
/** f32 between tokens in the memory where warps' sums meet: 64 rows and 4 more, so that a warp's writes fall into 32 banks. */
constexpr int kSumStride = static_cast<int>(kBlock) + 4;
constexpr int kSumBytes = kWarps * kTokens * kSumStride * static_cast<int>(sizeof(float));

template <class W>
struct Operand {
  using Type = W;
};
template <>
struct Operand<int8_t> {
  using Type = __nv_bfloat16;
};

/** Bytes of weights and of 8 tokens that a warp takes of a step. */
template <class W>
constexpr int kWeightBytes = static_cast<int>(kBlock) * kSliceDepth * static_cast<int>(sizeof(W));
constexpr int kTokenBytes = kTokens * kSliceDepth * 2;
/** Of a block of cores. */
constexpr int64_t kBlockBytes = kBlockElements * 2;

template <class W, int kGroups>
constexpr int kStageBytes = kWeightBytes<W> + kGroups * kTokenBytes;

/** Where the ranges of blocks begin, in steps. */
struct Cut {
  int64_t steps;
  int64_t blocks;
  __device__ int64_t begin(int64_t block) const { return steps * block / blocks; }
  /** The block that takes a step. */
  __device__ int64_t owner(int64_t step) const { return ((step + 1) * blocks - 1) / steps; }
};

/**
 * What a lane loads next, of weights and of tokens, through tiles and products: by additions only, since a step is a few hundred cycles. Tiles of a
 * weight follow each other, while tokens begin again with each tile.
 */
struct Cursor {
  const char* weights;
  const char* tokens;
  int left, step, tile, item;

  __device__ __forceinline__ void advance(int tile_steps, int step_bytes, int wrap_bytes, int token_step_bytes) {
    weights += step_bytes;
    tokens += token_step_bytes;
    --left;
    if (++step < tile_steps) return;
    step = 0;
    ++tile;
    weights += wrap_bytes;
    tokens -= tile_steps * static_cast<int64_t>(token_step_bytes);
  }
};

__device__ __forceinline__ uint4 load_shared16(uint32_t from) {
  uint4 value;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w) : "r"(from) : "memory");
  return value;
}

__device__ __forceinline__ void wait_for_stage(int stages) {
  if (stages == 4) {
    async_wait<3>();
  } else if (stages == 3) {
    async_wait<2>();
  } else {
    async_wait<1>();
  }
}

/** Bytes 0 and 2 of a word as bf16 numbers. */
__device__ __forceinline__ uint32_t widen_pair(uint32_t word) {
  const uint32_t biased = (word & 0x007f007fu) | 0x43004300u, bias = (word & 0x00800080u) | 0x43004300u;
  const __nv_bfloat162 result = __hsub2(*reinterpret_cast<const __nv_bfloat162*>(&biased), *reinterpret_cast<const __nv_bfloat162*>(&bias));
  return *reinterpret_cast<const uint32_t*>(&result);
}

/** The operands of both halves of a slice's depth for unit `unit` (16 rows) of the stage at `at`, where the lane's bytes begin. */
template <class W>
__device__ __forceinline__ void load_unit(uint32_t at, int unit, uint32_t (&first)[4], uint32_t (&second)[4]) {
  if constexpr (sizeof(W) == 1) {
    const uint4 word = load_shared16(at + unit * 512);
    first[0] = widen_pair(word.x), first[2] = widen_pair(word.x >> 8);
    second[0] = widen_pair(word.y), second[2] = widen_pair(word.y >> 8);
    first[1] = widen_pair(word.z), first[3] = widen_pair(word.z >> 8);
    second[1] = widen_pair(word.w), second[3] = widen_pair(word.w >> 8);
  } else {
    const uint4 upper = load_shared16(at + unit * 1024), lower = load_shared16(at + unit * 1024 + 512);
    first[0] = upper.x, first[1] = lower.x, first[2] = upper.y, first[3] = lower.y;
    second[0] = upper.z, second[1] = lower.z, second[2] = upper.w, second[3] = lower.w;
  }
}

/** kGroups: of 8 tokens. */
template <class W, int kGroups>
__global__ void __launch_bounds__(kThreads, kGroups <= 2 ? 2 : 1)
    multiply_decode_stream_kernel(const __grid_constant__ ProductList list, int64_t first_row, int stages, float* parts, uint32_t* tickets) {
  using T = typename Operand<W>::Type;
  constexpr int kStepBytes = kWarps * kWeightBytes<W>, kTokenStepBytes = kWarps / 2 * kBlockBytes;
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ bool came_last;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  float* sums = reinterpret_cast<float*>(shared);
  const uint32_t ring = shared_address(shared) + kSumBytes + warp * stages * kStageBytes<W, kGroups> + lane * 16;

  const Product& shape = list.items[0];
  const int slices = static_cast<int>(int8_slices(shape.depth)), tile_steps = (slices + kWarps - 1) / kWarps;
  const int tiles = static_cast<int>((shape.columns + kBlock - 1) / kBlock);
  const int wrap_bytes = (slices - tile_steps * kWarps) * kWeightBytes<W>;
  const Cut cut{static_cast<int64_t>(tiles) * list.count * tile_steps, gridDim.x};
  const int64_t begin = cut.begin(blockIdx.x);
  const int steps = static_cast<int>(cut.begin(blockIdx.x + 1) - begin);

  // A warp's slice of a step in cores, and its lane's 16 bytes there: 8 of depth of row l / 4. In int8, and in the ring, a lane has its own place.
  const int in_cores = warp / 2 * kBlockBytes + warp % 2 * 512 + lane % 4 * 128 + lane / 4 * 16;
  const auto weights_of = [&](int item) {
    return static_cast<const char*>(list.items[item].w) + (sizeof(W) == 1 ? warp * kWeightBytes<W> + lane * 16 : in_cores);
  };
  const auto tokens_of = [&](int item) {
    return static_cast<const char*>(list.items[item].x) + first_row / kBlock * (slices / 2) * kBlockBytes + first_row % kBlock / kTokens * 1024 + in_cores;
  };
  Cursor next;
  int tile = static_cast<int>(begin / tile_steps) % tiles, item = static_cast<int>(begin / tile_steps) / tiles;
  int step = static_cast<int>(begin % tile_steps);
  next.left = steps, next.step = step, next.tile = tile, next.item = item;
  next.weights = weights_of(item) + static_cast<int64_t>(tile) * slices * kWeightBytes<W> + static_cast<int64_t>(step) * kStepBytes;
  next.tokens = tokens_of(item) + static_cast<int64_t>(step) * kTokenStepBytes;

  const auto load_weights = [&](const Cursor& from, int stage) {
    if (from.left <= 0 || from.step * kWarps + warp >= slices) return;
    const uint32_t to = ring + stage * kStageBytes<W, kGroups>;
#pragma unroll
    for (int i = 0; i < kWeightBytes<W> / 512; ++i) async_copy16(to + i * 512, from.weights + i * (sizeof(W) == 1 ? 512 : 1024));
  };
  const auto load_tokens = [&](const Cursor& from, int stage) {
    if (from.left <= 0 || from.step * kWarps + warp >= slices) return;
    const uint32_t to = ring + stage * kStageBytes<W, kGroups> + kWeightBytes<W>;
#pragma unroll
    for (int group = 0; group < kGroups; ++group) async_copy16(to + group * kTokenBytes, from.tokens + group * 1024);
  };
  const auto advance = [&](Cursor& cursor) {
    cursor.advance(tile_steps, kStepBytes, wrap_bytes, kTokenStepBytes);
    if (cursor.tile < tiles || cursor.left <= 0) return;
    cursor.tile = 0;
    cursor.weights = weights_of(++cursor.item);
    cursor.tokens = tokens_of(cursor.item);
  };

  let_next_start();
  Cursor ahead = next;
  for (int stage = 0; stage < stages; ++stage) {
    load_weights(ahead, stage);
    advance(ahead);
  }
  wait_for_previous();
  for (int stage = 0; stage < stages; ++stage) {
    load_tokens(next, stage);
    async_commit();
    advance(next);
  }

  float sum[4][kGroups][4] = {};
  int stage = 0;
  for (int left = steps; left > 0;) {
    const bool from_start = step == 0;
    for (; step < tile_steps && left > 0; ++step, --left) {
      wait_for_stage(stages);
      if (step * kWarps + warp < slices) {
        const uint32_t at = ring + stage * kStageBytes<W, kGroups>;
        uint4 rows[kGroups];
#pragma unroll
        for (int group = 0; group < kGroups; ++group) rows[group] = load_shared16(at + kWeightBytes<W> + group * kTokenBytes);
#pragma unroll
        for (int unit = 0; unit < 4; ++unit) {
          uint32_t first[4], second[4];
          load_unit<W>(at, unit, first, second);
#pragma unroll
          for (int group = 0; group < kGroups; ++group) multiply_add<T>(sum[unit][group], first, rows[group].x, rows[group].y);
#pragma unroll
          for (int group = 0; group < kGroups; ++group) multiply_add<T>(sum[unit][group], second, rows[group].z, rows[group].w);
        }
      }
      load_weights(next, stage);
      load_tokens(next, stage);
      async_commit();
      advance(next);
      stage = stage + 1 == stages ? 0 : stage + 1;
    }

    // The end of a tile, or of what this block has of it. A block has parts of at most two tiles: the one its range begins within, and the one
    // that begins in its range and does not end there.
    const bool whole = from_start && step == tile_steps;
    float* part = parts + (2 * blockIdx.x + (from_start ? 1 : 0)) * (kBlock * kBlock);
    const Product& product = list.items[item];
    const int64_t column = tile * kBlock;
    const auto end_group = [&](int group, auto&& value) {
      const int64_t group_row = first_row + group * kTokens;
      if (list.ending == Ending::kGate) {
        const int token = threadIdx.x / 8 % kTokens, gate = threadIdx.x / 64 * 16 + threadIdx.x % 8;
        if (group_row + token < product.rows && column + gate < product.columns) {
          end_gate<T>(product, group_row + token, column + gate, value(token, gate), value(token, gate + 8));
        }
        return;
      }
#pragma unroll
      for (int i = 0; i < kTokens * static_cast<int>(kBlock) / kThreads; ++i) {
        const int token = threadIdx.x / 64 + i * (kThreads / 64), row = threadIdx.x % 64;
        if (group_row + token < product.rows && column + row < product.columns) {
          end_value<T>(product, list.ending, group_row + token, column + row, value(token, row));
        }
      }
    };

#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      __syncthreads();  // the sums of the group before have been read
      float* mine = sums + warp * kTokens * kSumStride + lane % 4 * 2 * kSumStride + lane / 4;
#pragma unroll
      for (int unit = 0; unit < 4; ++unit) {
        mine[unit * 16] = sum[unit][group][0], mine[unit * 16 + kSumStride] = sum[unit][group][1];
        mine[unit * 16 + 8] = sum[unit][group][2], mine[unit * 16 + 8 + kSumStride] = sum[unit][group][3];
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[unit][group][i] = 0.0f;
      }
      __syncthreads();  // every warp's sums are there
      const auto value = [&](int token, int row) {
        float total = sums[token * kSumStride + row];
#pragma unroll
        for (int other = 1; other < kWarps; ++other) total += sums[(other * kTokens + token) * kSumStride + row];
        return total;
      };
      if (whole) {
        end_group(group, value);
      } else {
#pragma unroll
        for (int i = 0; i < kTokens * static_cast<int>(kBlock) / kThreads; ++i) {
          const int token = threadIdx.x / 64 + i * (kThreads / 64), row = threadIdx.x % 64;
          __stcg(part + (group * kTokens + token) * kBlock + row, value(token, row));
        }
      }
    }
    if (!whole) {
      const int64_t tile_begin = (static_cast<int64_t>(item) * tiles + tile) * tile_steps;
      const int first_block = static_cast<int>(cut.owner(tile_begin)), last_block = static_cast<int>(cut.owner(tile_begin + tile_steps - 1));
      __threadfence();  // the part can be seen before the ticket
      __syncthreads();
      if (threadIdx.x == 0) {
        came_last = atomicAdd(tickets + first_block, 1u) == static_cast<uint32_t>(last_block - first_block);
        if (came_last) tickets[first_block] = 0;
      }
      __syncthreads();
      if (came_last) {
        __threadfence();
        for (int group = 0; group < kGroups; ++group) {
          end_group(group, [&](int token, int row) {
            const float* at = parts + (group * kTokens + token) * kBlock + row;
            float total = __ldcg(at + (2 * first_block + 1) * (kBlock * kBlock));
            for (int block = first_block + 1; block <= last_block; ++block) total += __ldcg(at + 2 * block * (kBlock * kBlock));
            return total;
          });
        }
      }
    }
    step = 0;
    if (++tile == tiles) tile = 0, ++item;
  }
}

template <class W, int kGroups>
Status run_groups(const ProductList& list, int64_t first_row, int64_t blocks, int64_t most_shared, float* parts, CudaContext& context) {
  const int64_t stage_bytes = kWarps * kStageBytes<W, kGroups>;
  int64_t stages = (most_shared - kSumBytes) / stage_bytes;
  stages = stages < kMostStages ? stages : kMostStages;
  return launch(context, "multiply_decode", multiply_decode_stream_kernel<W, kGroups>, dim3(static_cast<unsigned>(blocks)), dim3(kThreads),
                kSumBytes + stages * stage_bytes, list, first_row, static_cast<int>(stages), parts, context.flags);
}

template <class W>
Status run_rows(const ProductList& list, CudaContext& context) {
  const Product& shape = list.items[0];
  const int64_t tiles = (shape.columns + kBlock - 1) / kBlock, slices = int8_slices(shape.depth);
  const int64_t steps = tiles * list.count * ((slices + kWarps - 1) / kWarps);
  const int64_t blocks = steps < context.multiprocessors ? steps : context.multiprocessors;
  float* parts = nullptr;
  GORGON_TRY(context.scratch(decode_scratch_bytes(context) / static_cast<int64_t>(sizeof(float)), &parts));
  int most_shared = 0;
  GORGON_CUDA_TRY(cudaDeviceGetAttribute(&most_shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, context.device), "multiply_decode");
  const auto fits = [&](int64_t stage) { return kSumBytes + kLeastStages * kWarps * stage <= most_shared - 1024; };
  const int64_t most_rows = fits(kStageBytes<W, 8>) ? 64 : fits(kStageBytes<W, 4>) ? 32 : 16;
  for (int64_t row = 0; row < shape.rows;) {
    const int64_t rows = shape.rows - row < most_rows ? shape.rows - row : most_rows;
    if (rows <= 8) {
      GORGON_TRY((run_groups<W, 1>(list, row, blocks, most_shared - 1024, parts, context)));
    } else if (rows <= 16) {
      GORGON_TRY((run_groups<W, 2>(list, row, blocks, most_shared - 1024, parts, context)));
    } else if (rows <= 32) {
      GORGON_TRY((run_groups<W, 4>(list, row, blocks, most_shared - 1024, parts, context)));
    } else {
      GORGON_TRY((run_groups<W, 8>(list, row, blocks, most_shared - 1024, parts, context)));
    }
    row += rows;
  }
  return {};
}

/** Bytes of a core matrix of bf16, from the 16 bytes that a lane of the product holds: a thread has one lane's share of a unit. */
__global__ void widen_int8_kernel(const uint4* __restrict__ w, int64_t units, int64_t slices, uint4* __restrict__ to) {
  let_next_start();
  wait_for_previous();
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (thread >= units * kWarp) return;
  const int64_t unit = thread / kWarp, lane = thread % kWarp, slice = unit / 4, tile = slice / slices, in_tile = slice % slices;
  const uint4 word = w[thread];
  uint4 upper, lower;
  upper.x = widen_pair(word.x), upper.y = widen_pair(word.x >> 8), upper.z = widen_pair(word.y), upper.w = widen_pair(word.y >> 8);
  lower.x = widen_pair(word.z), lower.y = widen_pair(word.z >> 8), lower.z = widen_pair(word.w), lower.w = widen_pair(word.w >> 8);
  // In units of 16 bytes: a core is 8, a row of cores 64, a block 512.
  const int64_t at = (tile * (slices / 2) + in_tile / 2) * 512 + unit % 4 * 128 + (in_tile % 2 * 4 + lane % 4) * 8 + lane / 4;
  to[at] = upper;
  to[at + 64] = lower;
}

}  // namespace

Status multiply_decode_mma(const ProductList& list, DType dtype, CudaContext& context) {
  if (dtype == DType::kInt8) return run_rows<int8_t>(list, context);
  if (dtype == DType::kF16) return run_rows<__half>(list, context);
  return run_rows<__nv_bfloat16>(list, context);
}

Status widen_int8(const void* w, int64_t first, int64_t rows, int64_t depth, void* to, CudaContext& context) {
  const int64_t slices = int8_slices(depth), units = (rows + kBlock - 1) / kBlock * slices * 4;
  const auto* from = reinterpret_cast<const uint4*>(static_cast<const char*>(w) + first / kBlock * slices * kInt8SliceBytes);
  const int64_t blocks = (units * kWarp + kThreads - 1) / kThreads;
  return launch(context, "widen_int8", widen_int8_kernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, from, units, slices, static_cast<uint4*>(to));
}

}  // namespace gorgon

// Products of few rows by mma.sync: what streams weights where wgmma does not, and int8 weights everywhere.
//
// Weights are the 16-row side of m16n8k16, tokens its 8 columns: a weight is read once for up to 64 tokens, and every token meets the same
// instructions in the same order, however many there are.
//
// linear_units.h says how a weight is cut: a block multiplies all of the depth of its own rows, so nobody waits for another, and nothing is added
// between blocks. 16 rows are fine enough for that to be fair: 6144 rows are 2.9 units for each of 132 multiprocessors, 4096 are 1.9, 28672 are
// 13.6. A block takes its units four at a time:
//
//   a pass: 64 rows, in steps of 256 of depth (int8: 512)          a warp's own ring in shared memory
//     depth  0     32    64          224   256                       [stage][4 cells | tokens], 512 bytes by one cp.async of a warp, four
//           +-----+-----+-----+ ... +-----+                          cores by one ldmatrix; filled and read by the warp alone: no barrier
//     unit 0| w0  | w1  | w2  |     | w7  |   warp w has a cell,     until the end of a pass
//         1 | w0  | w1  | w2  |     | w7  |   16 rows by 32 (64)
//         2 | w0  | w1  | w2  |     | w7  |   of depth, of each
//         3 | w0  | w1  | w2  |     | w7  |   unit
//           +-----+-----+-----+ ... +-----+
//
// or, where it has no more than two, two at a time with two cells of depth each, so that as many bytes are on their way. At the end of a pass the 8
// warps' sums are added in the order of warps.
//
// int8: a byte's low 7 bits become the mantissa of a bf16 number of [128, 256), from which 128 or, where the sign bit is set, 256 is taken:
// 7 instructions for 4 weights, all exact. The scale multiplies the sum.
//
// On an H200 this reads bf16 weights at 98 % of 4.3 TB/s with one token (the four products of a Mistral layer), at 94 % with 16 and 63 % with 64,
// where tokens are half of what comes from L2; int8 ones of 128256 x 4096 at 96 % and 90 % with one token and 8.
#include "ops/linear_endings.cuh"
#include "ops/linear_units.h"

namespace gorgon {

namespace {

/** A chain of sums each. */
constexpr int kWarps = kChains;
constexpr int kThreads = kWarps * kWarp;
constexpr int kTokens = 8;
/** Of the ring, of 32 KiB of weights each; 33 KiB on their way to each multiprocessor cover the latency. */
constexpr int kLeastStages = 2, kMostStages = 4;
/** Units of int8 for each of twice as many blocks, from which on there are so many: widening takes issue slots, and two blocks hide each other's waits. */
constexpr int64_t kUnitsForTwo = 3;
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

/** A cell: 16 rows, a unit, by 32 of depth (int8: 64), a slice: 1 KiB. Four of them are what a warp takes of a step. */
constexpr int kCells = 4;
constexpr int kCellBytes = 1024;
/** Of a slice, those of 32 of depth. */
template <class W>
constexpr int kHalves = sizeof(W) == 1 ? 2 : 1;
/** Of 8 tokens, in 32 of depth. */
constexpr int kTokenBytes = kTokens * 32 * 2;
/** Of a block of cores. */
constexpr int64_t kBlockBytes = kBlockElements * 2;

template <class W>
GORGON_HOST_DEVICE constexpr int stage_bytes(int groups, int slices) { return kCells * kCellBytes + slices * kHalves<W> * groups * kTokenBytes; }

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

/** Two operands, of 16 of depth each: half `half` of the cell at `at`, where the lane's bytes of it begin. */
template <class W>
__device__ __forceinline__ void load_cell(uint32_t at, int half, uint32_t (&first)[4], uint32_t (&second)[4]) {
  if constexpr (sizeof(W) == 1) {
    const uint4 word = load_shared16(at + half * 512);
    first[0] = widen_pair(word.x), first[2] = widen_pair(word.x >> 8);
    second[0] = widen_pair(word.y), second[2] = widen_pair(word.y >> 8);
    first[1] = widen_pair(word.z), first[3] = widen_pair(word.z >> 8);
    second[1] = widen_pair(word.w), second[3] = widen_pair(word.w >> 8);
  } else {
    uint32_t upper[4], lower[4];
    load_matrices(upper, at);
    load_matrices(lower, at + 512);
    first[0] = upper[0], first[1] = lower[0], first[2] = upper[1], first[3] = lower[1];
    second[0] = upper[2], second[1] = lower[2], second[2] = upper[3], second[3] = lower[3];
  }
}

/** kGroups: of 8 tokens; kSlices: that a warp takes of a step, of four units one each or of two units two each. */
template <class W, int kGroups, int kSlices>
__global__ void __launch_bounds__(kThreads, kGroups <= 2 ? 2 : 1)
    multiply_decode_stream_kernel(const __grid_constant__ ProductList list, int64_t first_row, int stages) {
  using T = typename Operand<W>::Type;
  extern __shared__ __align__(128) unsigned char shared[];
  constexpr int kUnits = kCells / kSlices, kStepSlices = kWarps * kSlices, kStageBytes = stage_bytes<W>(kGroups, kSlices);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, first_slice = warp * kSlices;
  float* sums = reinterpret_cast<float*>(shared);
  const uint32_t ring = shared_address(shared) + kSumBytes + warp * stages * kStageBytes + lane * 16;

  const Product& shape = list.items[0];
  const int blocks = static_cast<int>(depth_blocks(shape.depth)), slices = blocks * 2 / kHalves<W>;
  const int steps = (slices + kStepSlices - 1) / kStepSlices;
  const int item_units = static_cast<int>((shape.columns + kUnitRows - 1) / kUnitRows);
  const int64_t units = static_cast<int64_t>(item_units) * list.count;
  const int64_t begin = first_unit(units, blockIdx.x, gridDim.x), end = first_unit(units, blockIdx.x + 1, gridDim.x);

  // What is loaded next: the lane's place in each cell and in the first slice's tokens.
  Pass ahead{};
  int ahead_step = 0;
  const char* weights[kCells];
  const char* tokens = nullptr;
  const auto open_pass = [&] {
    ahead_step = 0;
    if (ahead.count == 0) return;
    const Product& product = list.items[ahead.item];
#pragma unroll
    for (int cell = 0; cell < kCells; ++cell) {
      const int64_t unit = ahead.unit + cell / kSlices, slice = first_slice + cell % kSlices;
      weights[cell] = static_cast<const char*>(product.w) + lane * 16 +
                      (sizeof(W) == 1 ? (unit * slices + slice) * kCellBytes : (unit / 4 * blocks + slice / 2) * kBlockBytes + unit % 4 * 2048 + slice % 2 * 512);
    }
    tokens = static_cast<const char*>(product.x) + lane * 16 + first_row / kBlock * blocks * kBlockBytes + first_row % kBlock / kTokens * 1024 +
             (sizeof(W) == 1 ? first_slice * kBlockBytes : first_slice / 2 * kBlockBytes + first_slice % 2 * 512);
  };
  // What lies behind the end of the depth is zero on both sides; what lies in the cells of units that the pass has not, nobody reads.
  const auto load_weights = [&](int to_stage) {
    const uint32_t to = ring + to_stage * kStageBytes;
    const int slice = ahead_step * kStepSlices + first_slice;
#pragma unroll
    for (int cell = 0; cell < kCells; ++cell) {
      const bool valid = slice + cell % kSlices < slices;
      if (cell / kSlices >= ahead.count) continue;
      async_copy16(to + cell * kCellBytes, weights[cell], valid);
      async_copy16(to + cell * kCellBytes + 512, weights[cell] + (sizeof(W) == 1 ? 512 : 1024), valid);
    }
  };
  const auto load_tokens = [&](int to_stage) {
    if (ahead.count == 0) return;
    const uint32_t to = ring + to_stage * kStageBytes + kCells * kCellBytes;
    const int slice = ahead_step * kStepSlices + first_slice;
#pragma unroll
    for (int i = 0; i < kSlices; ++i) {
#pragma unroll
      for (int half = 0; half < kHalves<W>; ++half) {
#pragma unroll
        for (int group = 0; group < kGroups; ++group) {
          async_copy16(to + ((i * kHalves<W> + half) * kGroups + group) * kTokenBytes,
                       tokens + (sizeof(W) == 1 ? i * kBlockBytes + half * 512 : i / 2 * kBlockBytes + i % 2 * 512) + group * 1024, slice + i < slices);
        }
      }
    }
  };
  const auto advance = [&] {
    // A step of bf16 is 4 blocks of cores for each slice of a warp, of int8 as many cells as slices.
#pragma unroll
    for (int cell = 0; cell < kCells; ++cell) weights[cell] += kStepSlices * (sizeof(W) == 1 ? kCellBytes : kBlockBytes / 2);
    tokens += kStepSlices * kHalves<W> * (kBlockBytes / 2);
    if (ahead.count == 0 || ++ahead_step < steps) return;
    ahead.open(ahead.next, end, item_units, kUnits);
    open_pass();
  };
  const auto rewind = [&] {
    ahead.open(begin, end, item_units, kUnits);
    open_pass();
  };

  let_next_start();
  rewind();
  for (int i = 0; i < stages; ++i) {
    load_weights(i);
    advance();
  }
  wait_for_previous();
  rewind();
  for (int i = 0; i < stages; ++i) {
    load_tokens(i);
    async_commit();
    advance();
  }

  int stage = 0;
  Pass pass{};
  float sum[kUnits][kGroups][4] = {};
  for (pass.open(begin, end, item_units, kUnits); pass.count > 0; pass.open(pass.next, end, item_units, kUnits)) {
    for (int step = 0; step < steps; ++step) {
      wait_for_stage(stages);
      __syncwarp();  // the other lanes' copies are there too
      const uint32_t at = ring + stage * kStageBytes;
#pragma unroll
      for (int half = 0; half < kHalves<W>; ++half) {
        uint32_t rows[kGroups][4];
#pragma unroll
        for (int cell = 0; cell < kCells; ++cell) {
          const int unit = cell % kUnits, i = cell / kUnits;
          if (unit == 0) {
#pragma unroll
            for (int group = 0; group < kGroups; ++group) {
              load_matrices(rows[group], at + kCells * kCellBytes + ((i * kHalves<W> + half) * kGroups + group) * kTokenBytes);
            }
          }
          uint32_t first[4], second[4];
          load_cell<W>(at + (unit * kSlices + i) * kCellBytes, half, first, second);
#pragma unroll
          for (int group = 0; group < kGroups; ++group) multiply_add<T>(sum[unit][group], first, rows[group][0], rows[group][1]);
#pragma unroll
          for (int group = 0; group < kGroups; ++group) multiply_add<T>(sum[unit][group], second, rows[group][2], rows[group][3]);
        }
      }
      __syncwarp();  // all lanes have read the stage
      load_weights(stage);
      load_tokens(stage);
      async_commit();
      advance();
      stage = stage + 1 == stages ? 0 : stage + 1;
    }

    const Product& product = list.items[pass.item];
    const int64_t column = static_cast<int64_t>(pass.unit) * kUnitRows;
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      __syncthreads();  // the sums of the group before have been read
      float* mine = sums + warp * kTokens * kSumStride + lane % 4 * 2 * kSumStride + lane / 4;
#pragma unroll
      for (int unit = 0; unit < kUnits; ++unit) {
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
      const int64_t group_row = first_row + group * kTokens;
      if (list.ending == Ending::kGate) {
        const int token = threadIdx.x / 8 % kTokens, gate = threadIdx.x / 64 * kUnitRows + threadIdx.x % 8;
        if (threadIdx.x / 64 < pass.count && group_row + token < product.rows && column + gate < product.columns) {
          end_gate<T>(product, group_row + token, column + gate, value(token, gate), value(token, gate + 8));
        }
        continue;
      }
#pragma unroll
      for (int i = 0; i < kTokens * 64 / kThreads; ++i) {
        const int token = threadIdx.x / 64 + i * (kThreads / 64), row = threadIdx.x % 64;
        if (row < pass.count * kUnitRows && group_row + token < product.rows && column + row < product.columns) {
          end_value<T>(product, list.ending, group_row + token, column + row, value(token, row));
        }
      }
    }
  }
}

struct Plan {
  int64_t blocks;
  int slices;
  /** Of blocks, for each multiprocessor. */
  bool two;
  /** Bytes of shared memory that a block may have, and those that leave room for another block. */
  int64_t most_shared;
  int64_t half_shared;
};

template <class W, int kGroups>
Status run_groups(const ProductList& list, int64_t first_row, const Plan& plan, CudaContext& context) {
  const int64_t bytes = kWarps * stage_bytes<W>(kGroups, plan.slices), beside = (plan.half_shared - kSumBytes) / bytes;
  // Where a multiprocessor is meant to have one block, there is no room for another: beside kernels that fill only some, blocks would go in pairs.
  const int64_t fitting = plan.two && beside >= kLeastStages ? beside : (plan.most_shared - kSumBytes) / bytes;
  const int64_t stages = fitting < kMostStages ? fitting : kMostStages;
  const auto kernel = plan.slices == 2 ? multiply_decode_stream_kernel<W, kGroups, 2> : multiply_decode_stream_kernel<W, kGroups, 1>;
  return launch(context, "multiply_decode", kernel, dim3(static_cast<unsigned>(plan.blocks)), dim3(kThreads), kSumBytes + stages * bytes, list, first_row,
                static_cast<int>(stages));
}

template <class W>
Status run_rows(const ProductList& list, CudaContext& context) {
  const Product& shape = list.items[0];
  const int64_t units = (shape.columns + kUnitRows - 1) / kUnitRows * list.count;
  const bool two = sizeof(W) == 1 && units >= 2 * kUnitsForTwo * context.multiprocessors;
  const UnitPlan units_plan = plan_units(shape.columns, list.count, two ? 2 * context.multiprocessors : context.multiprocessors);
  Plan plan{};
  plan.blocks = units_plan.blocks;
  plan.slices = kCells / units_plan.units;
  plan.two = two;
  int most_shared = 0, all_shared = 0, reserved = 0;
  GORGON_CUDA_TRY(cudaDeviceGetAttribute(&most_shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, context.device), "multiply_decode");
  GORGON_CUDA_TRY(cudaDeviceGetAttribute(&all_shared, cudaDevAttrMaxSharedMemoryPerMultiprocessor, context.device), "multiply_decode");
  GORGON_CUDA_TRY(cudaDeviceGetAttribute(&reserved, cudaDevAttrReservedSharedMemoryPerBlock, context.device), "multiply_decode");
  plan.most_shared = most_shared;
  plan.half_shared = all_shared / 2 - reserved;
  const auto fits = [&](int groups) { return kSumBytes + kLeastStages * kWarps * stage_bytes<W>(groups, plan.slices) <= plan.most_shared; };
  const int64_t most_rows = fits(8) ? 64 : fits(4) ? 32 : fits(2) ? 16 : 8;
  for (int64_t row = 0; row < shape.rows;) {
    const int64_t rows = shape.rows - row < most_rows ? shape.rows - row : most_rows;
    if (rows <= 8) {
      GORGON_TRY((run_groups<W, 1>(list, row, plan, context)));
    } else if (rows <= 16) {
      GORGON_TRY((run_groups<W, 2>(list, row, plan, context)));
    } else if (rows <= 32) {
      GORGON_TRY((run_groups<W, 4>(list, row, plan, context)));
    } else {
      GORGON_TRY((run_groups<W, 8>(list, row, plan, context)));
    }
    row += rows;
  }
  return {};
}

/** A thread has what a lane of the product holds of a cell: of two rows, two neighbours in each of a slice's four cores. */
__global__ void widen_int8_kernel(const uint4* __restrict__ w, int64_t cells, int64_t slices, uint32_t* __restrict__ to) {
  let_next_start();
  wait_for_previous();
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (thread >= cells * kWarp) return;
  const int64_t cell = thread / kWarp, lane = thread % kWarp, unit = cell / slices, slice = cell % slices;
  const uint4 word = w[thread];
  const uint32_t upper[2] = {word.x, word.y}, lower[2] = {word.z, word.w};
  // In units of 4 bytes: a core is 32, a row of cores 256, a block 2048.
  uint32_t* at = to + (unit / 4 * (slices / 2) + slice / 2) * 2048 + unit % 4 * 512 + slice % 2 * 128 + lane;
#pragma unroll
  for (int core = 0; core < 4; ++core) {
    at[core * 32] = widen_pair(core % 2 == 0 ? upper[core / 2] : upper[core / 2] >> 8);
    at[core * 32 + 256] = widen_pair(core % 2 == 0 ? lower[core / 2] : lower[core / 2] >> 8);
  }
}

}  // namespace

Status multiply_decode_mma(const ProductList& list, DType dtype, CudaContext& context) {
  if (dtype == DType::kInt8) return run_rows<int8_t>(list, context);
  if (dtype == DType::kF16) return run_rows<__half>(list, context);
  return run_rows<__nv_bfloat16>(list, context);
}

Status widen_int8(const void* w, int64_t first, int64_t rows, int64_t depth, void* to, CudaContext& context) {
  const int64_t slices = int8_slices(depth), cells = (rows + kBlock - 1) / kBlock * 4 * slices;
  const auto* from = reinterpret_cast<const uint4*>(static_cast<const char*>(w) + first / kInt8UnitRows * slices * kInt8CellBytes);
  const int64_t blocks = (cells * kWarp + kThreads - 1) / kThreads;
  return launch(context, "widen_int8", widen_int8_kernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, from, cells, slices, static_cast<uint32_t*>(to));
}

}  // namespace gorgon

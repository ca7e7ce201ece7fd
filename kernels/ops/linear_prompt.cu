// Products of many rows by mma.sync: prompts where there is no wgmma.
//
// A block computes 128 tokens by 128 rows of the weight; 64 of depth at a time come through a ring in shared memory by cp.async, four blocks of
// cores (2 of tokens, 2 of the weight), 32 KiB a stage.
//
//            128 rows of the weight
//           +-----+-----+-----+-----+
//   128     | w0  | w1  | w2  | w3  |    a warp: 64 tokens by 32 rows, 64 sums a thread; per 32 of depth 12 loads of 16 bytes a lane
//   tokens  +-----+-----+-----+-----+    feed 32 mma. As in linear_decode.cu lanes take 8 neighbours in depth, so that plain loads of
//           | w4  | w5  | w6  | w7  |    whole cores are the operands, without bank conflicts.
//           +-----+-----+-----+-----+
//
// Neighbouring blocks share the weight's rows: it is met in L2 by all tokens' tiles one after the other. Tokens are the 16-row side, so that a
// thread's two sums of a row are neighbours in memory; a gated weight's 8 rows of gate and 8 of up are two of a thread's columns of mma.
#include "ops/linear_endings.cuh"

namespace gorgon {

namespace {

constexpr int kThreads = 256;
constexpr int kTile = 128;
constexpr int kBlockBytes = static_cast<int>(kBlockElements) * 2;
constexpr int kStageBytes = 4 * kBlockBytes;
constexpr int kStages = 3;
/** A row group (8 rows, 64 of depth) of a block. */
constexpr int kGroupBytes = 1024;

__device__ __forceinline__ uint4 load_shared16(uint32_t from) {
  uint4 value;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w) : "r"(from) : "memory");
  return value;
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2) multiply_prompt_tiles_kernel(const __grid_constant__ Product product, Ending ending) {
  extern __shared__ __align__(128) unsigned char shared[];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kTile, first_column = static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t blocks = depth_blocks(product.depth);
  const int64_t row_blocks = (product.rows + kBlock - 1) / kBlock, column_blocks = (product.columns + kBlock - 1) / kBlock;

  const auto load = [&](int64_t block) {
    const uint32_t to = shared_address(shared) + static_cast<int>(block % kStages) * kStageBytes + threadIdx.x * 16;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool of_tokens = i < 2;
      const int64_t row_block = (of_tokens ? first_row : first_column) / kBlock + i % 2;
      const bool valid = row_block < (of_tokens ? row_blocks : column_blocks);
      const char* from = static_cast<const char*>(of_tokens ? product.x : product.w) + ((valid ? row_block : 0) * blocks + block) * kBlockBytes + threadIdx.x * 16;
      async_copy16(to + i * kBlockBytes, from, valid);
      async_copy16(to + i * kBlockBytes + kBlockBytes / 2, from + kBlockBytes / 2, valid);
    }
  };

  let_next_start();
  wait_for_previous();
  for (int stage = 0; stage < kStages - 1; ++stage) {
    if (stage < blocks) load(stage);
    async_commit();
  }
  float sum[4][4][4] = {};
  // The lane's 16 bytes of 8 rows by 32 of depth: 8 of depth of row l / 4.
  const uint32_t in_group = lane % 4 * 128 + lane / 4 * 16;
  const uint32_t tokens_at = warp / 4 * kBlockBytes + in_group, weights_at = 2 * kBlockBytes + warp % 4 * 4 * kGroupBytes + in_group;
  for (int64_t block = 0; block < blocks; ++block) {
    async_wait<kStages - 2>();
    __syncthreads();  // the stage is there for all, and all are done with the one that is loaded next
    if (block + kStages - 1 < blocks) load(block + kStages - 1);
    async_commit();
    const uint32_t stage = shared_address(shared) + static_cast<int>(block % kStages) * kStageBytes;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint4 weights[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) weights[j] = load_shared16(stage + weights_at + j * kGroupBytes + half * 512);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint4 upper = load_shared16(stage + tokens_at + 2 * i * kGroupBytes + half * 512);
        const uint4 lower = load_shared16(stage + tokens_at + (2 * i + 1) * kGroupBytes + half * 512);
        const uint32_t first[4] = {upper.x, lower.x, upper.y, lower.y}, second[4] = {upper.z, lower.z, upper.w, lower.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) multiply_add<T>(sum[i][j], first, weights[j].x, weights[j].y);
#pragma unroll
        for (int j = 0; j < 4; ++j) multiply_add<T>(sum[i][j], second, weights[j].z, weights[j].w);
      }
    }
  }

#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int64_t row = first_row + warp / 4 * 64 + i * 16 + lane / 4 + e / 2 * 8;
      const int64_t column = first_column + warp % 4 * 32 + lane % 4 * 2 + e % 2;
      if (row >= product.rows) continue;
      if (ending == Ending::kGate) {
#pragma unroll
        for (int j = 0; j < 4; j += 2) {
          if (column + j * 8 < product.columns) end_gate<T>(product, row, column + j * 8, sum[i][j][e], sum[i][j + 1][e]);
        }
        continue;
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (column + j * 8 < product.columns) end_value<T>(product, ending, row, column + j * 8, sum[i][j][e]);
      }
    }
  }
}

template <class T>
Status run(const Product& product, Ending ending, CudaContext& context) {
  const dim3 grid(static_cast<unsigned>((product.rows + kTile - 1) / kTile), static_cast<unsigned>((product.columns + kTile - 1) / kTile));
  return launch(context, "multiply_prompt", multiply_prompt_tiles_kernel<T>, grid, dim3(kThreads), kStages * kStageBytes, product, ending);
}

}  // namespace

Status multiply_prompt_mma(const Product& product, Ending ending, DType dtype, CudaContext& context) {
  return dtype == DType::kF16 ? run<__half>(product, ending, context) : run<__nv_bfloat16>(product, ending, context);
}

}  // namespace gorgon

// Products of many rows by mma.sync: prompts where there is no wgmma.
//
// A block computes 128 tokens by 128 rows of the weight; 64 of depth at a time come through a ring in shared memory by cp.async, four blocks of
// cores (2 of tokens, 2 of the weight), 32 KiB a stage.
//
//            128 rows of the weight
//           +-----+-----+-----+-----+
//   128     | w0  | w1  | w2  | w3  |    a warp: 64 tokens by 32 rows, 64 sums a thread; per 32 of depth 12 ldmatrix, of four
//   tokens  +-----+-----+-----+-----+    cores each, feed 32 mma. Cores are 128 neighbouring bytes: no bank conflicts.
//           | w4  | w5  | w6  | w7  |
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

template <class T>
__global__ void __launch_bounds__(kThreads) multiply_prompt_tiles_kernel(const __grid_constant__ Product product, Ending ending) {
  extern __shared__ __align__(128) unsigned char shared[];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kTile, first_column = static_cast<int64_t>(blockIdx.y) * kTile;
  const int blocks = static_cast<int>(depth_blocks(product.depth));
  // Of the two blocks of each side the first exists, the second is zeros where the rows end. Both move on by a block with every load.
  const bool two_of_tokens = first_row + kBlock < product.rows, two_of_weights = first_column + kBlock < product.columns;
  const char* tokens = static_cast<const char*>(product.x) + first_row / kBlock * blocks * kBlockBytes + threadIdx.x * 16;
  const char* weights = static_cast<const char*>(product.w) + first_column / kBlock * blocks * kBlockBytes + threadIdx.x * 16;
  const int second_tokens = two_of_tokens ? blocks * kBlockBytes : 0, second_weights = two_of_weights ? blocks * kBlockBytes : 0;
  const auto load = [&](int stage) {
    const uint32_t to = shared_address(shared) + stage * kStageBytes + threadIdx.x * 16;
#pragma unroll
    for (int part = 0; part < kBlockBytes; part += kThreads * 16) {
      async_copy16(to + part, tokens + part);
      async_copy16(to + kBlockBytes + part, tokens + second_tokens + part, two_of_tokens);
      async_copy16(to + 2 * kBlockBytes + part, weights + part);
      async_copy16(to + 3 * kBlockBytes + part, weights + second_weights + part, two_of_weights);
    }
    tokens += kBlockBytes;
    weights += kBlockBytes;
  };

  let_next_start();
  wait_for_previous();
  for (int stage = 0; stage < kStages - 1; ++stage) {
    if (stage < blocks) load(stage);
    async_commit();
  }
  float sum[4][4][4] = {};
  // Four cores, 8 rows by 32 of depth, are one ldmatrix, of which the lane gives the address of 16 bytes.
  const uint32_t tokens_at = warp / 4 * kBlockBytes + lane * 16, weights_at = 2 * kBlockBytes + warp % 4 * 4 * kGroupBytes + lane * 16;
  int stage = 0;
  for (int block = 0; block < blocks; ++block) {
    async_wait<kStages - 2>();
    __syncthreads();  // the stage is there for all, and all are done with the one that is loaded next
    if (block + kStages - 1 < blocks) load(stage == 0 ? kStages - 1 : stage - 1);
    async_commit();
    const uint32_t at = shared_address(shared) + stage * kStageBytes;
    stage = stage + 1 == kStages ? 0 : stage + 1;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t columns[4][4];
#pragma unroll
      for (int j = 0; j < 4; ++j) load_matrices(columns[j], at + weights_at + j * kGroupBytes + half * 512);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        uint32_t upper[4], lower[4];
        load_matrices(upper, at + tokens_at + 2 * i * kGroupBytes + half * 512);
        load_matrices(lower, at + tokens_at + (2 * i + 1) * kGroupBytes + half * 512);
        const uint32_t first[4] = {upper[0], lower[0], upper[1], lower[1]}, second[4] = {upper[2], lower[2], upper[3], lower[3]};
#pragma unroll
        for (int j = 0; j < 4; ++j) multiply_add<T>(sum[i][j], first, columns[j][0], columns[j][1]);
#pragma unroll
        for (int j = 0; j < 4; ++j) multiply_add<T>(sum[i][j], second, columns[j][2], columns[j][3]);
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

// causal_attention on CUDA: a block owns some query rows of one query head and goes over the tiles of keys in rising order with a running
// maximum, sum and weighted values per row (online softmax).
//
//   keys  | 0 .. | .. | .. | R+t |       tiles are counted from row 0 of the cache, and a tile of which a row sees nothing leaves the
//   rows  |======|====|==/ |             row's bits as they are: a row is a function of its own number of keys, however the prompt is cut.
//         |======|====|====|=/           The blocks of the last rows are the longest and come first.
//
// Three ways to go about a tile:
//
//   warpgroups   Hopper, heads of 64 or 128: see causal_attention_hopper.cuh (660 to 680 TFLOP/s on an H200 at D = 128, 4096 tokens, 12K rows)
//   warps        16-bit values: 64 query rows, 4 warps of 16 rows by 64 keys, mma.sync; K and V are one buffer each: V arrives while the
//                scores are made, the next K while the values are summed. A tile of the cache is one piece of memory and goes to shared
//                memory as it is: its cores are what ldmatrix reads without a bank conflict. (240 TFLOP/s there.)
//   lanes        f32: 32 query rows, 8 warps of 4 rows by 32 keys, a lane per key for the scores and per column for the values; in f32
//                throughout, expf and division correctly rounded or nearly so.
//
// Weights are rounded to 16 bits before they meet 16-bit values, and their sum is of the unrounded ones: an error of at most 2^-9 (bf16) or
// 2^-12 (f16) of each weight, about 2^-9 / sqrt(keys) of the result, before the result itself is rounded.
#include "common/cuda_context.h"
#include "common/device.cuh"
#include "ops/attention_device.cuh"
#include "ops/causal_attention.h"
#include "ops/causal_attention_hopper.cuh"
#include "ops/causal_attention_shape.h"

namespace gorgon {

namespace {

// ---- 16-bit values, mma.sync ----

constexpr int kWarpsRows = 64;
constexpr int kWarpsKeys = 64;
constexpr int kWarpsThreads = 128;

__device__ __forceinline__ void copy_tile(uint32_t to, const std::byte* from, int bytes) {
  for (int at = threadIdx.x * 16; at < bytes; at += kWarpsThreads * 16) async_copy16(to + at, from + at);
}

/** kWidth: the widest padded head this takes. */
template <class T, int kWidth>
__global__ __launch_bounds__(kWarpsThreads) void causal_attention_warps_kernel(const CausalAttentionShape shape) {
  extern __shared__ __align__(128) unsigned char shared[];
  let_next_start();
  wait_for_previous();
  const int width = static_cast<int>(core_head_width(shape.head_dim));
  const int group_bytes = width / 8 * 128;
  const int tile_bytes = kWarpsKeys / 8 * group_bytes;
  const uint32_t q_shared = shared_address(shared), k_shared = q_shared + tile_bytes, v_shared = k_shared + tile_bytes;

  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int query_head = blockIdx.x;
  const int first_out = (gridDim.y - 1 - blockIdx.y) * kWarpsRows;
  const int out_rows = shape.tokens - shape.skip;
  const KvHead head = shape.heads[query_head / shape.group];
  const int first_token = shape.skip + first_out;
  const int last_token = min(first_token + kWarpsRows, shape.tokens) - 1;
  const int first_tile = first_row_in_window(head.positions, shape.rows + first_token, shape.position + first_token, shape.window) / kWarpsKeys;
  const int tiles = (shape.rows + last_token) / kWarpsKeys + 1;

  {  // Query rows become cores. Eight lanes write the eight rows of a core.
    const T* q = static_cast<const T*>(shape.q) + int64_t{query_head} * width;
    for (int i = threadIdx.x; i < kWarpsRows * (width / 8); i += kWarpsThreads) {
      const int row = i % 8 + i / width * 8, part = i / 8 % (width / 8), out_row = first_out + row;
      const bool valid = out_row < out_rows;
      async_copy16(q_shared + row / 8 * group_bytes + part * 128 + row % 8 * 16, q + (valid ? (shape.skip + out_row) * shape.q_stride + part * 8 : 0), valid);
    }
  }
  copy_tile(k_shared, head.k + int64_t{first_tile} * tile_bytes, tile_bytes);
  async_commit();

  int begin[2], end[2];
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const int token = min(first_token + warp * 16 + lane / 4 + row * 8, shape.tokens - 1);
    begin[row] = first_row_in_window(head.positions, shape.rows + token, shape.position + token, shape.window);
    end[row] = shape.rows + token + 1;
  }
  float base[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
  float o[kWidth / 8][4];
#pragma unroll
  for (int j = 0; j < kWidth / 8; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) o[j][i] = 0.0f;
  }
  // Where this lane's row of ldmatrix's four cores is: queries and values take (rows, depth), (rows + 8, depth), (rows, depth + 8), ...
  const uint32_t rows_first = lane / 8 % 2 * group_bytes + lane / 16 * 128 + lane % 8 * 16;
  // ... keys (rows, depth), (rows, depth + 8), (rows + 8, depth), ...
  const uint32_t depth_first = lane / 16 * group_bytes + lane / 8 % 2 * 128 + lane % 8 * 16;
  const uint32_t q_row = q_shared + warp * 2 * group_bytes + rows_first;

  for (int tile = first_tile; tile < tiles; ++tile) {
    async_wait<0>();
    __syncthreads();  // K of this tile is here; nobody reads V of the last one any more
    copy_tile(v_shared, head.v + int64_t{tile} * tile_bytes, tile_bytes);
    async_commit();

    float s[kWarpsKeys / 8][4];
#pragma unroll
    for (int j = 0; j < kWarpsKeys / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) s[j][i] = 0.0f;
    }
#pragma unroll
    for (int step = 0; step < kWidth / 16; ++step) {
      if (step * 16 >= width) continue;
      uint32_t a[4], b[4];
      load_matrices(a, q_row + step * 256);
#pragma unroll
      for (int pair = 0; pair < kWarpsKeys / 16; ++pair) {
        load_matrices(b, k_shared + pair * 2 * group_bytes + depth_first + step * 256);
        multiply_add<T>(s[2 * pair], a, b[0], b[1]);
        multiply_add<T>(s[2 * pair + 1], a, b[2], b[3]);
      }
    }
    async_wait<0>();
    __syncthreads();  // V of this tile is here; nobody reads K any more
    if (tile + 1 < tiles) copy_tile(k_shared, head.k + int64_t{tile + 1} * tile_bytes, tile_bytes);
    async_commit();

    const int first_key = tile * kWarpsKeys;
    if (first_key + kWarpsKeys > end[0] || first_key < begin[1]) {
#pragma unroll
      for (int j = 0; j < kWarpsKeys / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int key = first_key + 8 * j + 2 * (lane % 4) + i % 2;
          if (key < begin[i / 2] || key >= end[i / 2]) s[j][i] = -INFINITY;
        }
      }
    }
    float keep[2];
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float top = -INFINITY;
#pragma unroll
      for (int j = 0; j < kWarpsKeys / 8; ++j) top = fmaxf(top, fmaxf(s[j][2 * row], s[j][2 * row + 1]));
      // Equal maxima must give a factor of exactly 1: the product is rounded once and kept, not fused into the difference.
      const float new_base = fmaxf(base[row], __fmul_rn(quad_max(top), shape.scale_log2));
      const float shift = new_base == -INFINITY ? 0.0f : new_base;
      keep[row] = fast_exp2(base[row] - shift);
      base[row] = new_base;
      float tile_sum = 0.0f;
#pragma unroll
      for (int j = 0; j < kWarpsKeys / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& weight = s[j][2 * row + i];
          weight = fast_exp2(fmaf(weight, shape.scale_log2, -shift));
          tile_sum += weight;
        }
      }
      sum[row] = fmaf(sum[row], keep[row], tile_sum);
    }
#pragma unroll
    for (int j = 0; j < kWidth / 8; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) o[j][i] *= keep[i / 2];
    }
#pragma unroll
    for (int step = 0; step < kWarpsKeys / 16; ++step) {
      const uint32_t a[4] = {pack_pair<T>(s[2 * step][0], s[2 * step][1]), pack_pair<T>(s[2 * step][2], s[2 * step][3]),
                             pack_pair<T>(s[2 * step + 1][0], s[2 * step + 1][1]), pack_pair<T>(s[2 * step + 1][2], s[2 * step + 1][3])};
      const uint32_t v_row = v_shared + step * 2 * group_bytes + rows_first;
#pragma unroll
      for (int pair = 0; pair < kWidth / 16; ++pair) {
        if (pair * 16 >= width) continue;
        uint32_t b[4];
        load_matrices_transposed(b, v_row + pair * 256);
        multiply_add<T>(o[2 * pair], a, b[0], b[1]);
        multiply_add<T>(o[2 * pair + 1], a, b[2], b[3]);
      }
    }
  }

  const int64_t depth = int64_t{shape.query_heads} * shape.head_dim;
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const int out_row = first_out + warp * 16 + lane / 4 + row * 8;
    const float total = quad_sum(sum[row]);
    const float share = total == 0.0f ? 0.0f : 1.0f / total;
    if (out_row >= out_rows) continue;
#pragma unroll
    for (int j = 0; j < kWidth / 8; ++j) {
      const int d = 8 * j + 2 * (lane % 4);
      if (d >= shape.head_dim) continue;
      T* const to = static_cast<T*>(shape.out) + core_element(out_row, int64_t{query_head} * shape.head_dim + d, depth);
      *reinterpret_cast<uint32_t*>(to) = pack_pair<T>(o[j][2 * row] * share, o[j][2 * row + 1] * share);
    }
  }
}

// ---- f32 ----

constexpr int kLanesRows = 32;
constexpr int kLanesKeys = 32;
constexpr int kLanesThreads = 256;
constexpr int kRowsPerWarp = kLanesRows / (kLanesThreads / kWarp);
/** Floats from a core to the next in shared memory: eight more, so that lanes in neighbouring cores meet different banks. */
constexpr int kPaddedCore = static_cast<int>(kCoreElements) + 8;

static int64_t lanes_shared_bytes(int64_t width) {
  return (kLanesRows * width + 2 * (kLanesKeys / kCore) * (width / kCore) * kPaddedCore) * static_cast<int64_t>(sizeof(float));
}

__device__ __forceinline__ void copy_padded_tile(float* to, const std::byte* from, int width) {
  const int pieces = kLanesKeys * width / 4;
  const uint32_t address = shared_address(to);
  for (int i = threadIdx.x; i < pieces; i += kLanesThreads) async_copy16(address + (i / 16 * kPaddedCore + i % 16 * 4) * 4, from + int64_t{i} * 16);
}

__global__ __launch_bounds__(kLanesThreads) void causal_attention_lanes_kernel(const CausalAttentionShape shape) {
  extern __shared__ __align__(128) unsigned char shared[];
  let_next_start();
  wait_for_previous();
  const int width = static_cast<int>(core_head_width(shape.head_dim));
  const int tile_floats = kLanesKeys / 8 * (width / 8) * kPaddedCore;
  float* const q_shared = reinterpret_cast<float*>(shared);
  float* const k_shared = q_shared + kLanesRows * width;
  float* const v_shared = k_shared + tile_floats;
  const int64_t tile_bytes = int64_t{kLanesKeys} * width * 4;

  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int query_head = blockIdx.x;
  const int first_out = (gridDim.y - 1 - blockIdx.y) * kLanesRows;
  const int out_rows = shape.tokens - shape.skip;
  const KvHead head = shape.heads[query_head / shape.group];
  const int first_token = shape.skip + first_out;
  const int last_token = min(first_token + kLanesRows, shape.tokens) - 1;
  const int first_tile = first_row_in_window(head.positions, shape.rows + first_token, shape.position + first_token, shape.window) / kLanesKeys;
  const int tiles = (shape.rows + last_token) / kLanesKeys + 1;

  const float* q = static_cast<const float*>(shape.q) + int64_t{query_head} * width;
  for (int i = threadIdx.x; i < kLanesRows * width; i += kLanesThreads) {
    const int out_row = first_out + i / width;
    q_shared[i] = out_row < out_rows ? q[(shape.skip + out_row) * shape.q_stride + i % width] : 0.0f;
  }
  int begin[kRowsPerWarp], end[kRowsPerWarp];
  float top[kRowsPerWarp], sum[kRowsPerWarp], o[kRowsPerWarp][kMaxHeadDim / kWarp];
#pragma unroll
  for (int row = 0; row < kRowsPerWarp; ++row) {
    const int token = min(first_token + warp * kRowsPerWarp + row, shape.tokens - 1);
    begin[row] = first_row_in_window(head.positions, shape.rows + token, shape.position + token, shape.window);
    end[row] = shape.rows + token + 1;
    top[row] = -INFINITY;
    sum[row] = 0.0f;
#pragma unroll
    for (int i = 0; i < kMaxHeadDim / kWarp; ++i) o[row][i] = 0.0f;
  }
  const float* const q_rows = q_shared + warp * kRowsPerWarp * width;
  const float* const k_row = k_shared + lane / 8 * (width / 8) * kPaddedCore + lane % 8 * 8;
  const float* const v_column = v_shared + lane / 8 * kPaddedCore + lane % 8;

  for (int tile = first_tile; tile < tiles; ++tile) {
    __syncthreads();  // queries are here; nobody reads the last tile any more
    copy_padded_tile(k_shared, head.k + tile * tile_bytes, width);
    copy_padded_tile(v_shared, head.v + tile * tile_bytes, width);
    async_commit();
    async_wait<0>();
    __syncthreads();

    float s[kRowsPerWarp] = {};
#pragma unroll 2
    for (int d = 0; d < width; d += 4) {
      const float4 k = *reinterpret_cast<const float4*>(k_row + d / 8 * kPaddedCore + d % 8);
#pragma unroll
      for (int row = 0; row < kRowsPerWarp; ++row) {
        const float4 x = *reinterpret_cast<const float4*>(q_rows + row * width + d);
        s[row] = fmaf(x.w, k.w, fmaf(x.z, k.z, fmaf(x.y, k.y, fmaf(x.x, k.x, s[row]))));
      }
    }
    const int key = tile * kLanesKeys + lane;
    float keep[kRowsPerWarp];
#pragma unroll
    for (int row = 0; row < kRowsPerWarp; ++row) {
      const bool visible = key >= begin[row] && key < end[row];
      const float score = visible ? __fmul_rn(s[row], shape.scale) : -INFINITY;
      const float new_top = fmaxf(top[row], warp_max(score));
      const float shift = new_top == -INFINITY ? 0.0f : new_top;
      keep[row] = expf(top[row] - shift);
      top[row] = new_top;
      s[row] = expf(score - shift);
      sum[row] = fmaf(sum[row], keep[row], warp_sum(s[row]));
#pragma unroll
      for (int i = 0; i < kMaxHeadDim / kWarp; ++i) o[row][i] *= keep[row];
    }
#pragma unroll 4
    for (int r = 0; r < kLanesKeys; ++r) {
      float weight[kRowsPerWarp];
#pragma unroll
      for (int row = 0; row < kRowsPerWarp; ++row) weight[row] = __shfl_sync(kAllLanes, s[row], r);
      const float* const v = v_column + r / 8 * (width / 8) * kPaddedCore + r % 8 * 8;
#pragma unroll
      for (int i = 0; i < kMaxHeadDim / kWarp; ++i) {
        if (i * kWarp + lane >= width) continue;
        const float value = v[i * (kWarp / 8) * kPaddedCore];
#pragma unroll
        for (int row = 0; row < kRowsPerWarp; ++row) o[row][i] = fmaf(weight[row], value, o[row][i]);
      }
    }
  }

  const int64_t depth = int64_t{shape.query_heads} * shape.head_dim;
#pragma unroll
  for (int row = 0; row < kRowsPerWarp; ++row) {
    const int out_row = first_out + warp * kRowsPerWarp + row;
    if (out_row >= out_rows) continue;
#pragma unroll
    for (int i = 0; i < kMaxHeadDim / kWarp; ++i) {
      const int d = i * kWarp + lane;
      if (d >= shape.head_dim) continue;
      static_cast<float*>(shape.out)[core_element(out_row, int64_t{query_head} * shape.head_dim + d, depth)] = sum[row] == 0.0f ? 0.0f : o[row][i] / sum[row];
    }
  }
}

// ---- launches ----

dim3 grid_of(const CausalAttentionShape& shape, int tile_rows) {
  return dim3(shape.query_heads, static_cast<unsigned>(divide_up(shape.tokens - shape.skip, tile_rows)));
}

template <class T, int kWidth>
Status launch_warps(const CausalAttentionShape& shape, CudaContext& context) {
  const int64_t shared_bytes = 3 * kWarpsRows * core_head_width(shape.head_dim) * static_cast<int64_t>(sizeof(T));
  const dim3 grid = grid_of(shape, kWarpsRows);
  return launch(context, "causal attention", causal_attention_warps_kernel<T, kWidth>, grid, dim3(kWarpsThreads), shared_bytes, shape);
}

/** Most memory for the sums of stretches. */
constexpr int64_t kMostPartBytes = int64_t{128} << 20;

template <class T, int kWidth>
Status launch_warpgroups(CausalAttentionShape shape, CudaContext& context) {
  using Tiles = CausalHopperTiles<kWidth>;
  // Few tokens: all heads of a KV head together.
  const int fitting = Tiles::kQueryRows / shape.group / 8 * 8;
  const bool fits = shape.tokens - shape.skip <= fitting;
  shape.block_heads = fits ? shape.group : 1;
  shape.block_tokens = fits ? fitting : Tiles::kQueryRows;
  shape.head_of_row = ((1 << 16) + shape.block_tokens - 1) / shape.block_tokens;
  dim3 grid(shape.query_heads / shape.block_heads, static_cast<unsigned>(divide_up(shape.tokens - shape.skip, shape.block_tokens)));
  // Few rows over many keys leave most of the device idle, unless each stretch of keys has a block of its own.
  const int64_t stretches = divide_up(shape.rows + shape.tokens, Tiles::kKeys * Tiles::kStretch);
  const int64_t part_rows = stretches * shape.query_heads * (shape.tokens - shape.skip);
  const int64_t value_bytes = part_rows * kWidth * static_cast<int64_t>(sizeof(float)), part_bytes = value_bytes + part_rows * static_cast<int64_t>(sizeof(StretchState));
  const bool splits = stretches > 1 && int64_t{grid.x} * grid.y * 2 <= context.multiprocessors && part_bytes <= kMostPartBytes;
  if (splits) {
    std::byte* scratch = nullptr;
    GORGON_TRY(context.scratch(part_bytes, &scratch));
    shape.parts = reinterpret_cast<float*>(scratch);
    shape.part_states = scratch + value_bytes;
    grid.z = static_cast<unsigned>(stretches);
  }
  GORGON_TRY(launch(context, "causal attention", causal_attention_warpgroups_kernel<T, kWidth>, grid, dim3(Tiles::kThreads), Tiles::kSharedBytes, shape));
  if (!splits) return {};
  return launch(context, "causal attention", causal_attention_add_stretches_kernel<T, kWidth>,
                dim3(shape.query_heads, static_cast<unsigned>(divide_up(shape.tokens - shape.skip, 4))), dim3(128), 0, shape, static_cast<int>(stretches));
}

template <class T>
Status launch_16_bits(const CausalAttentionShape& shape, CudaContext& context) {
  if (context.hopper && shape.head_dim == 128) return launch_warpgroups<T, 128>(shape, context);
  if (context.hopper && shape.head_dim == 64) return launch_warpgroups<T, 64>(shape, context);
  if (shape.head_dim <= 64) return launch_warps<T, 64>(shape, context);
  if (shape.head_dim <= 128) return launch_warps<T, 128>(shape, context);
  return launch_warps<T, 256>(shape, context);
}

Status launch_f32(const CausalAttentionShape& shape, CudaContext& context) {
  const dim3 grid = grid_of(shape, kLanesRows);
  return launch(context, "causal attention", causal_attention_lanes_kernel, grid, dim3(kLanesThreads), lanes_shared_bytes(core_head_width(shape.head_dim)), shape);
}

}  // namespace

Status causal_attention_cuda(const CausalAttentionArgs& args, CudaContext& context) {
  if (args.tokens == args.skip) return {};
  CausalAttentionShape shape{};
  shape.q = args.q;
  shape.q_stride = args.q_stride;
  shape.heads = args.heads;
  shape.out = args.out;
  shape.tokens = static_cast<int>(args.tokens);
  shape.skip = static_cast<int>(args.skip);
  shape.rows = static_cast<int>(args.rows);
  shape.query_heads = static_cast<int>(args.query_heads);
  shape.group = static_cast<int>(args.query_heads / args.kv_heads);
  shape.head_dim = static_cast<int>(args.head_dim);
  shape.position = args.position;
  shape.window = args.window;
  shape.scale = 1.0f / sqrtf(static_cast<float>(args.head_dim));
  shape.scale_log2 = shape.scale * kLog2E;
  switch (args.dtype) {
    case DType::kBf16: return launch_16_bits<__nv_bfloat16>(shape, context);
    case DType::kF16: return launch_16_bits<__half>(shape, context);
    default: return launch_f32(shape, context);
  }
}

}  // namespace gorgon

// attention_votes on CUDA: two passes over K. The first finds each query's maximum and sum, the second adds the weights up per key.
//
//   pass 1   a block owns 128 query rows of a KV head (all of a token's query heads side by side), kept in registers, and K streams by in
//            tiles of 64. Chunks of 256 keys, counted from row 0, give a maximum and a sum each; sixteen chunks are merged in rising order
//            to a stretch, and the stretches in rising order: by the block itself where there are enough query rows to fill the device (a
//            piece of a prompt), else by a kernel of its own, and the chunks are different blocks' (the queries of an observation window).
//            The bits are the same.
//
//                 keys ->  0 .. 255   256 .. 511   ...
//        query rows 0..127 [ block ]  [ block ]              few queries
//        query rows 0..127 [ block ----------------- ]       many
//
//   pass 2   a block owns 128 keys of a KV head, kept in registers, and the queries stream by in tiles of 32, one query head after the
//            other. The votes of a key are one lane's: the four lanes that share rows of a product exchange weights so that each gets all
//            queries of one key, in rising order. So the votes of one call are those of several, bit for bit, and nothing is atomic.
//
// So with mma.sync; Hopper has larger tiles of the same, see attention_votes_hopper.cuh. For a window of 32 tokens and groups of 4 a pass is 256
// flops and an exponential per 2 bytes of K, more than there is time for while the memory brings them: on an H200 both passes take 1.0 ms at
// 380K rows, after 1.9 s of the layer's attention. A piece of 4096 tokens over 16K rows runs at 325 TFLOP/s (mma.sync: 172).
// 16-bit values: weights are products of f32 sums, scale and 2^x with an error below 2^-22. f32: expf, all in f32, a lane per key.
#include "common/cuda_context.h"
#include "common/device.cuh"
#include "ops/attention_device.cuh"
#include "ops/attention_votes.h"
#include "ops/attention_votes_hopper.cuh"
#include "ops/attention_votes_parts.cuh"

namespace gorgon {

namespace {

/** Chunks of a block of the first pass. */
constexpr int64_t kMostBlockChunks = 32;

/** A block has 16 query rows; 8 stretches are merged at a time. Grid: tiles of query rows, KV heads. */
constexpr int kMergeRows = 16;
constexpr int kMergeStretches = 8;

template <bool is_base2>
__global__ __launch_bounds__(kMergeRows * kMergeStretches) void attention_votes_merge_kernel(const VotesShape shape) {
  __shared__ float2 stretches[kMergeStretches][kMergeRows];
  let_next_start();
  wait_for_previous();
  const int query_rows = shape.tokens * shape.group, kv_head = blockIdx.y;
  const int lane = threadIdx.x % kMergeRows, place = threadIdx.x / kMergeRows;
  const int row = blockIdx.x * kMergeRows + lane, own_row = min(row, query_rows - 1);
  const float2* const parts = shape.parts + int64_t{kv_head} * shape.chunks * query_rows + own_row;
  float2 whole = make_float2(-INFINITY, 0.0f);
  for (int first = 0; first < shape.chunks; first += kMergeStretches * kStretch) {
    float2 stretch = make_float2(-INFINITY, 0.0f);
    const int from = first + place * kStretch, to = min(from + kStretch, shape.chunks);
#pragma unroll 4
    for (int chunk = from; chunk < to; ++chunk) merge_chunk<is_base2>(stretch, parts[int64_t{chunk} * query_rows]);
    stretches[place][lane] = stretch;
    __syncthreads();
    if (place == 0) {
      for (int i = 0; i < kMergeStretches; ++i) merge_chunk<is_base2>(whole, stretches[i][lane]);
    }
    __syncthreads();
  }
  if (place == 0 && row < query_rows) {
    store_query(shape, kv_head, row, whole, first_row_of(shape, shape.heads[kv_head], row / shape.group));
  }
}

// ---- 16-bit values, mma.sync ----

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kTileKeys = 64;
constexpr int kTileQueries = 32;
constexpr int kStages = 3;
/** Keys of a block of the second pass: a lane's each. */
constexpr int kVoteKeys = 128;

/** Tiles of 16 query rows that a warp of the first pass keeps in registers. */
template <int kWidth>
constexpr int kRowTiles = kWidth <= 128 ? 2 : 1;

/** Rows of `from` to shared memory as cores, zeros where there is no row. Eight lanes write the eight rows of a core. */
template <class T, class RowAddress>
__device__ __forceinline__ void copy_rows(uint32_t to, int rows, int width, const T* any, const RowAddress& address) {
  for (int i = threadIdx.x; i < rows * (width / 8); i += kThreads) {
    const int row = i % 8 + i / width * 8, part = i / 8 % (width / 8);
    const T* from = address(row);
    async_copy16(to + row / 8 * (width / 8 * 128) + part * 128 + row % 8 * 16, from != nullptr ? from + part * 8 : any, from != nullptr);
  }
}

__device__ __forceinline__ void copy_bytes(uint32_t to, const std::byte* from, int bytes, int valid) {
  for (int at = threadIdx.x * 16; at < bytes; at += kThreads * 16) async_copy16(to + at, from + (at < valid ? at : 0), at < valid);
}

/** s = left . right for 16 kLeft rows in registers and 8 kRight rows in shared memory. */
template <class T, int kWidth, int kLeft, int kRight>
__device__ __forceinline__ void products(float (&s)[kLeft][kRight][4], const uint32_t (&left)[kLeft][kWidth / 16][4], uint32_t right, int width) {
#pragma unroll
  for (int m = 0; m < kLeft; ++m) {
#pragma unroll
    for (int j = 0; j < kRight; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) s[m][j][i] = 0.0f;
    }
  }
  const int group_bytes = width / 8 * 128;
  right += right_row(group_bytes);
#pragma unroll
  for (int step = 0; step < kWidth / 16; ++step) {
    if (step * 16 >= width) continue;
#pragma unroll
    for (int pair = 0; pair < kRight / 2; ++pair) {
      uint32_t b[4];
      load_matrices(b, right + pair * 2 * group_bytes + step * 256);
#pragma unroll
      for (int m = 0; m < kLeft; ++m) {
        multiply_add<T>(s[m][2 * pair], left[m][step], b[0], b[1]);
        multiply_add<T>(s[m][2 * pair + 1], left[m][step], b[2], b[3]);
      }
    }
  }
}

/** Grid: groups of chunks or 1, tiles of query rows, KV heads. */
template <class T, int kWidth>
__global__ __launch_bounds__(kThreads) void attention_votes_sums_kernel(const VotesShape shape) {
  constexpr int kLeft = kRowTiles<kWidth>, kBlockRows = kWarps * kLeft * 16;
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  let_next_start();
  wait_for_previous();
  const uint32_t shared = shared_address(shared_bytes);
  const int width = static_cast<int>(core_head_width(shape.head_dim)), group_bytes = width / 8 * 128, tile_bytes = kTileKeys / 8 * group_bytes;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int kv_head = blockIdx.z, query_rows = shape.tokens * shape.group;
  const int first_query = (gridDim.y - 1 - blockIdx.y) * kBlockRows;
  const KvHead head = shape.heads[kv_head];

  uint32_t left[kLeft][kWidth / 16][4];
  const T* const q = static_cast<const T*>(shape.q) + int64_t{kv_head} * shape.group * width;
  copy_rows(shared, kBlockRows, width, q, [&](int row) -> const T* {
    row += first_query;
    return row < query_rows ? q + row / shape.group * shape.q_stride + row % shape.group * width : nullptr;
  });
  async_commit();
  int begin[kLeft][2], end[kLeft][2], lowest_end = INT32_MAX, highest_begin = 0;
  RunningSums<true> whole[kLeft][2];
#pragma unroll
  for (int m = 0; m < kLeft; ++m) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = min(first_query + (warp * kLeft + m) * 16 + lane / 4 + i * 8, query_rows - 1) / shape.group;
      begin[m][i] = first_row_of(shape, head, token);
      end[m][i] = shape.rows + token + 1;
      lowest_end = min(lowest_end, end[m][i]);
      highest_begin = max(highest_begin, begin[m][i]);
    }
  }
  async_wait<0>();
  __syncthreads();
  load_left(left, shared + warp * kLeft * 2 * group_bytes, width);
  __syncthreads();  // keys may go where the queries were

  const int all_keys = shape.rows + (min(first_query + kBlockRows, query_rows) - 1) / shape.group + 1;
  const int first_key = first_row_of(shape, head, first_query / shape.group) / kTileKeys * kTileKeys;
  int from = first_key, to = all_keys;
  if (shape.parts != nullptr) {
    const int first_chunk = blockIdx.x * shape.block_chunks, last_chunk = min(first_chunk + shape.block_chunks, shape.chunks);
    from = max(from, first_chunk * kChunkRows);
    to = min(to, last_chunk * kChunkRows);
    // Chunks of which no row sees a key.
    const int row = first_query + threadIdx.x;
    for (int chunk = first_chunk; chunk < last_chunk; ++chunk) {
      if ((from >= to || chunk < from / kChunkRows || chunk > (to - 1) / kChunkRows) && static_cast<int>(threadIdx.x) < kBlockRows && row < query_rows) {
        shape.parts[(int64_t{kv_head} * shape.chunks + chunk) * query_rows + row] = make_float2(-INFINITY, 0.0f);
      }
    }
  }
  const int tiles = to > from ? (to - from + kTileKeys - 1) / kTileKeys : 0;
  const std::byte* const k = head.k + int64_t{from} * width * 2;
  // Each lane has a maximum and a sum of its own columns; the four of a row meet at the end of a chunk.
  float top[kLeft][2], sum[kLeft][2];
#pragma unroll
  for (int m = 0; m < kLeft; ++m) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      top[m][i] = -INFINITY;
      sum[m][i] = 0.0f;
    }
  }
#pragma unroll
  for (int tile = 0; tile < kStages - 1; ++tile) {
    if (tile < tiles) copy_bytes(shared + tile * tile_bytes, k + int64_t{tile} * tile_bytes, tile_bytes, tile_bytes);
    async_commit();
  }
  for (int tile = 0; tile < tiles; ++tile) {
    async_wait<kStages - 2>();
    __syncthreads();  // the tile is here, and nobody reads the one before
    if (tile + kStages - 1 < tiles) copy_bytes(shared + (tile + kStages - 1) % kStages * tile_bytes, k + int64_t{tile + kStages - 1} * tile_bytes, tile_bytes, tile_bytes);
    async_commit();
    float s[kLeft][kTileKeys / 8][4];
    products<T, kWidth>(s, left, shared + tile % kStages * tile_bytes, width);
    const int key = from + tile * kTileKeys;
    if (key + kTileKeys > lowest_end || key < highest_begin) {
#pragma unroll
      for (int m = 0; m < kLeft; ++m) {
#pragma unroll
        for (int j = 0; j < kTileKeys / 8; ++j) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int column = key + 8 * j + 2 * (lane % 4) + i % 2;
            if (column < begin[m][i / 2] || column >= end[m][i / 2]) s[m][j][i] = -INFINITY;
          }
        }
      }
    }
#pragma unroll
    for (int m = 0; m < kLeft; ++m) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float tile_top = -INFINITY;
#pragma unroll
        for (int j = 0; j < kTileKeys / 8; ++j) tile_top = fmaxf(tile_top, fmaxf(s[m][j][2 * i], s[m][j][2 * i + 1]));
        const float new_top = fmaxf(top[m][i], __fmul_rn(tile_top, shape.scale));
        const float shift = new_top == -INFINITY ? 0.0f : new_top;
        float tile_sum = 0.0f;
#pragma unroll
        for (int j = 0; j < kTileKeys / 8; ++j) {
          tile_sum += fast_exp2(fmaf(s[m][j][2 * i], shape.scale, -shift));
          tile_sum += fast_exp2(fmaf(s[m][j][2 * i + 1], shape.scale, -shift));
        }
        sum[m][i] = fmaf(sum[m][i], fast_exp2(top[m][i] - shift), tile_sum);
        top[m][i] = new_top;
      }
    }
    if ((key + kTileKeys) % kChunkRows != 0 && tile + 1 < tiles) continue;
    const int chunk = key / kChunkRows;
#pragma unroll
    for (int m = 0; m < kLeft; ++m) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float chunk_top = quad_max(top[m][i]);
        const float chunk_sum = quad_sum(sum[m][i] == 0.0f ? 0.0f : sum[m][i] * fast_exp2(top[m][i] - chunk_top));
        const float2 state = make_float2(chunk_top, chunk_sum);
        const int row = first_query + (warp * kLeft + m) * 16 + lane / 4 + i * 8;
        if (shape.parts == nullptr) {
          whole[m][i].add(chunk, state);
        } else if (lane % 4 == 0 && row < query_rows) {
          shape.parts[(int64_t{kv_head} * shape.chunks + chunk) * query_rows + row] = state;
        }
        top[m][i] = -INFINITY;
        sum[m][i] = 0.0f;
      }
    }
  }
  if (shape.parts != nullptr) return;
#pragma unroll
  for (int m = 0; m < kLeft; ++m) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = first_query + (warp * kLeft + m) * 16 + lane / 4 + i * 8;
      whole[m][i].finish();
      if (lane % 4 == 0 && row < query_rows) store_query(shape, kv_head, row, whole[m][i].whole, begin[m][i]);
    }
  }
}

/** Grid: tiles of keys, KV heads. */
template <class T, int kWidth>
__global__ __launch_bounds__(kThreads) void attention_votes_weights_kernel(const VotesShape shape) {
  constexpr int kLeft = kVoteKeys / kWarps / 16;
  static_assert(kLeft == 2, "a lane sums one key of the four of its quad");
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  let_next_start();
  wait_for_previous();
  const uint32_t shared = shared_address(shared_bytes);
  const int width = static_cast<int>(core_head_width(shape.head_dim)), group_bytes = width / 8 * 128;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int kv_head = blockIdx.y, first_key = blockIdx.x * kVoteKeys;
  const KvHead head = shape.heads[kv_head];

  uint32_t left[kLeft][kWidth / 16][4];
  {
    const int key_groups = (shape.rows + shape.tokens - first_key + 7) / 8;  // the cache ends somewhere behind
    copy_bytes(shared, head.k + int64_t{first_key} * width * 2, kVoteKeys / 8 * group_bytes, min(kVoteKeys / 8, key_groups) * group_bytes);
    async_commit();
    async_wait<0>();
    __syncthreads();
    load_left(left, shared + warp * kLeft * 2 * group_bytes, width);
    __syncthreads();  // queries may go where the keys were
  }
  // A stage: the queries, then what is known of each.
  const int query_bytes = kTileQueries / 8 * group_bytes, stage_bytes = query_bytes + kTileQueries * static_cast<int>(sizeof(VotingQuery));
  const int first_tile = max(0, first_key - shape.rows) / kTileQueries;
  const int tiles = (shape.tokens + kTileQueries - 1) / kTileQueries - first_tile;
  const int items = tiles * shape.group;
  const T* const q = static_cast<const T*>(shape.q) + int64_t{kv_head} * shape.group * width;
  const auto copy_item = [&](int item, int stage) {
    const int member = item / tiles, token = (first_tile + item % tiles) * kTileQueries;
    const uint32_t to = shared + stage * stage_bytes;
    copy_rows(to, kTileQueries, width, q, [&](int row) -> const T* {
      return token + row < shape.tokens ? q + (token + row) * shape.q_stride + member * width : nullptr;
    });
    if (threadIdx.x < kTileQueries) {
      const bool valid = token + static_cast<int>(threadIdx.x) < shape.tokens;
      const VotingQuery* queries = shape.queries + int64_t{kv_head * shape.group + member} * shape.padded_tokens;
      async_copy16(to + query_bytes + threadIdx.x * static_cast<int>(sizeof(VotingQuery)), valid ? queries + token + threadIdx.x : queries, valid);
    }
  };
  // This lane's rows in a product are keys key_row, + 8, + 16, + 24; the one it sums is the (lane % 4)th of them.
  const int key_row = first_key + warp * 32 + lane / 4;
  const int own_key = key_row + lane % 4 * 8;
  const bool is_voted = own_key < shape.vote_rows;
#pragma unroll
  for (int item = 0; item < kStages - 1; ++item) {
    if (item < items) copy_item(item, item);
    async_commit();
  }
  float votes = 0.0f;
  for (int item = 0; item < items; ++item) {
    const int tile = first_tile + item % tiles;
    float* const to = shape.votes + int64_t{kv_head * shape.group + item / tiles} * shape.votes_stride + own_key;
    if (item % tiles == 0 && is_voted) votes = *to;
    async_wait<kStages - 2>();
    __syncthreads();  // the queries are here, and nobody reads those before
    if (item + kStages - 1 < items) copy_item(item + kStages - 1, (item + kStages - 1) % kStages);
    async_commit();
    const int stage = item % kStages;
    float s[kLeft][kTileQueries / 8][4];
    products<T, kWidth>(s, left, shared + stage * stage_bytes, width);
    const VotingQuery* const queries = reinterpret_cast<const VotingQuery*>(shared_bytes + stage * stage_bytes + query_bytes);
    // Where all keys come before all of the tile's queries, only those that are not there need a thought, and their share is 0.
    const bool is_masked = shape.window > 0 || first_key + kVoteKeys > shape.rows + tile * kTileQueries + 1;
#pragma unroll
    for (int j = 0; j < kTileQueries / 8; ++j) {
      const VotingQuery even = queries[8 * j + 2 * (lane % 4)], odd = queries[8 * j + 2 * (lane % 4) + 1];
      add_weights(
          votes, even, odd, shape.scale, is_masked, [&](int i, int query) { return s[i / 2][j][i % 2 * 2 + query]; }, [&](int i) { return key_row + i * 8; });
    }
    if ((item + 1) % tiles == 0 && is_voted) *to = votes;
  }
}

// ---- f32: a warp has four query rows, a lane a key ----

constexpr int kLanesThreads = 256;
constexpr int kLanesTile = 32;
constexpr int kRowsPerWarp = kLanesTile / (kLanesThreads / kWarp);

/** Scores of the warp's four queries and the lane's key, in rising depth; minus infinity where a query does not see the key. */
__device__ __forceinline__ void lane_scores(float (&s)[kRowsPerWarp], const float* q_rows, const float* k_row, int width, float scale) {
#pragma unroll
  for (int row = 0; row < kRowsPerWarp; ++row) s[row] = 0.0f;
#pragma unroll 2
  for (int d = 0; d < width; d += 4) {
    const float4 k = *reinterpret_cast<const float4*>(k_row + d / 8 * kCoreElements + d % 8);
#pragma unroll
    for (int row = 0; row < kRowsPerWarp; ++row) {
      const float4 x = *reinterpret_cast<const float4*>(q_rows + row * width + d);
      s[row] = fmaf(x.w, k.w, fmaf(x.z, k.z, fmaf(x.y, k.y, fmaf(x.x, k.x, s[row]))));
    }
  }
#pragma unroll
  for (int row = 0; row < kRowsPerWarp; ++row) s[row] = __fmul_rn(s[row], scale);
}

/** 32 rows of the cache, which has them in one piece. */
__device__ __forceinline__ void load_keys(float* to, const std::byte* k, int first_key, int width) {
  const float4* from = reinterpret_cast<const float4*>(k + int64_t{first_key} * width * 4);
  for (int i = threadIdx.x; i < kLanesTile * width / 4; i += kLanesThreads) reinterpret_cast<float4*>(to)[i] = from[i];
}

__global__ __launch_bounds__(kLanesThreads) void attention_votes_lane_sums_kernel(const VotesShape shape) {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  let_next_start();
  wait_for_previous();
  const int width = static_cast<int>(core_head_width(shape.head_dim));
  float* const q_shared = reinterpret_cast<float*>(shared_bytes);
  float* const k_shared = q_shared + kLanesTile * width;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int kv_head = blockIdx.z, query_rows = shape.tokens * shape.group, first_query = (gridDim.y - 1 - blockIdx.y) * kLanesTile;
  const KvHead head = shape.heads[kv_head];
  const float* const q = static_cast<const float*>(shape.q) + int64_t{kv_head} * shape.group * width;
  for (int i = threadIdx.x; i < kLanesTile * width; i += kLanesThreads) {
    const int row = first_query + i / width;
    q_shared[i] = row < query_rows ? q[row / shape.group * shape.q_stride + row % shape.group * width + i % width] : 0.0f;
  }
  int begin[kRowsPerWarp], end[kRowsPerWarp];
  RunningSums<false> whole[kRowsPerWarp];
#pragma unroll
  for (int row = 0; row < kRowsPerWarp; ++row) {
    const int token = min(first_query + warp * kRowsPerWarp + row, query_rows - 1) / shape.group;
    begin[row] = first_row_of(shape, head, token);
    end[row] = shape.rows + token + 1;
  }
  const int all_keys = shape.rows + (min(first_query + kLanesTile, query_rows) - 1) / shape.group + 1;
  const int first_key = first_row_of(shape, head, first_query / shape.group) / kLanesTile * kLanesTile;
  const int first_chunk = shape.parts != nullptr ? blockIdx.x * shape.block_chunks : first_key / kChunkRows;
  const int last_chunk = shape.parts != nullptr ? min(first_chunk + shape.block_chunks, shape.chunks) : (all_keys + kChunkRows - 1) / kChunkRows;
  for (int chunk = first_chunk; chunk < last_chunk; ++chunk) {
    float top[kRowsPerWarp], sum[kRowsPerWarp];
#pragma unroll
    for (int row = 0; row < kRowsPerWarp; ++row) {
      top[row] = -INFINITY;
      sum[row] = 0.0f;
    }
    const int to = min(all_keys, (chunk + 1) * kChunkRows);
    for (int key = max(first_key, chunk * kChunkRows); key < to; key += kLanesTile) {
      __syncthreads();  // nobody reads the keys before
      load_keys(k_shared, head.k, key, width);
      __syncthreads();
      float s[kRowsPerWarp];
      lane_scores(s, q_shared + warp * kRowsPerWarp * width, k_shared + lane / 8 * (width / 8) * kCoreElements + lane % 8 * 8, width, shape.scale);
#pragma unroll
      for (int row = 0; row < kRowsPerWarp; ++row) {
        if (key + lane < begin[row] || key + lane >= end[row]) continue;
        const float new_top = fmaxf(top[row], s[row]);
        sum[row] = sum[row] * expf(top[row] - new_top) + expf(s[row] - new_top);
        top[row] = new_top;
      }
    }
#pragma unroll
    for (int row = 0; row < kRowsPerWarp; ++row) {
      const float chunk_top = warp_max(top[row]);
      const float2 state = make_float2(chunk_top, warp_sum(sum[row] == 0.0f ? 0.0f : sum[row] * expf(top[row] - chunk_top)));
      const int query = first_query + warp * kRowsPerWarp + row;
      if (shape.parts == nullptr) {
        whole[row].add(chunk, state);
      } else if (lane == 0 && query < query_rows) {
        shape.parts[(int64_t{kv_head} * shape.chunks + chunk) * query_rows + query] = state;
      }
    }
  }
  if (shape.parts != nullptr || lane != 0) return;
#pragma unroll
  for (int row = 0; row < kRowsPerWarp; ++row) {
    const int query = first_query + warp * kRowsPerWarp + row;
    whole[row].finish();
    if (query < query_rows) store_query(shape, kv_head, query, whole[row].whole, begin[row]);
  }
}

__global__ __launch_bounds__(kLanesThreads) void attention_votes_lane_weights_kernel(const VotesShape shape) {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  let_next_start();
  wait_for_previous();
  const int width = static_cast<int>(core_head_width(shape.head_dim));
  float* const q_shared = reinterpret_cast<float*>(shared_bytes);
  float* const k_shared = q_shared + kLanesTile * width;
  float* const weights = k_shared + kLanesTile * width;  // [32 queries][32 keys]
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int query_head = blockIdx.y, kv_head = query_head / shape.group, first_key = blockIdx.x * kLanesTile, key = first_key + lane;
  load_keys(k_shared, shape.heads[kv_head].k, first_key, width);
  const float* const q = static_cast<const float*>(shape.q) + int64_t{query_head} * width;
  const VotingQuery* const queries = shape.queries + int64_t{query_head} * shape.padded_tokens;
  float* const to = shape.votes + query_head * shape.votes_stride + key;
  const bool is_voted = warp == 0 && key < shape.vote_rows;
  float votes = is_voted ? *to : 0.0f;
  for (int token = max(0, first_key - shape.rows) / kLanesTile * kLanesTile; token < shape.tokens; token += kLanesTile) {
    __syncthreads();  // nobody reads the queries before
    for (int i = threadIdx.x; i < kLanesTile * width; i += kLanesThreads) {
      q_shared[i] = token + i / width < shape.tokens ? q[(token + i / width) * shape.q_stride + i % width] : 0.0f;
    }
    __syncthreads();
    float s[kRowsPerWarp];
    lane_scores(s, q_shared + warp * kRowsPerWarp * width, k_shared + lane / 8 * (width / 8) * kCoreElements + lane % 8 * 8, width, shape.scale);
#pragma unroll
    for (int row = 0; row < kRowsPerWarp; ++row) {
      const int query = token + warp * kRowsPerWarp + row;
      float weight = 0.0f;
      if (query < shape.tokens) {
        const VotingQuery known = queries[query];
        if (key >= known.begin && key < known.end) weight = expf(s[row] - known.shift) * known.share;
      }
      weights[(warp * kRowsPerWarp + row) * kLanesTile + lane] = weight;
    }
    __syncthreads();
    if (warp == 0) {
      for (int row = 0; row < kLanesTile; ++row) votes += weights[row * kLanesTile + lane];
    }
  }
  if (is_voted) *to = votes;
}

// ---- launches ----

unsigned count(int64_t all, int64_t each) { return static_cast<unsigned>(divide_up(all, each)); }

template <class T, int kWidth>
Status launch_votes(const VotesShape& shape, int kv_heads, CudaContext& context) {
  const int64_t width = core_head_width(shape.head_dim), query_rows = int64_t{shape.tokens} * shape.group;
  const int64_t block_rows = kWarps * kRowTiles<kWidth> * 16;
  const int64_t keys_bytes = kStages * kTileKeys * width * 2, first_bytes = keys_bytes > block_rows * width * 2 ? keys_bytes : block_rows * width * 2;
  GORGON_TRY(launch(context, "attention votes", attention_votes_sums_kernel<T, kWidth>,
                    dim3(shape.parts != nullptr ? count(shape.chunks, shape.block_chunks) : 1, count(query_rows, block_rows), kv_heads), dim3(kThreads), first_bytes, shape));
  if (shape.parts != nullptr) {
    GORGON_TRY(launch(context, "attention votes", attention_votes_merge_kernel<true>, dim3(count(query_rows, kMergeRows), kv_heads),
                      dim3(kMergeRows * kMergeStretches), 0, shape));
  }
  const int64_t queries_bytes = kStages * kTileQueries * (width * 2 + static_cast<int64_t>(sizeof(VotingQuery)));
  const int64_t second_bytes = queries_bytes > kVoteKeys * width * 2 ? queries_bytes : kVoteKeys * width * 2;
  return launch(context, "attention votes", attention_votes_weights_kernel<T, kWidth>, dim3(count(shape.vote_rows, kVoteKeys), kv_heads), dim3(kThreads), second_bytes,
                shape);
}

template <class T, int kWidth>
Status launch_votes_warpgroups(const VotesShape& shape, int kv_heads, CudaContext& context) {
  using Tiles = VotesHopperTiles<kWidth>;
  const int64_t query_rows = int64_t{shape.tokens} * shape.group;
  GORGON_TRY(launch(context, "attention votes", attention_votes_pack_kernel<T, kWidth>, dim3(count(int64_t{shape.padded_tokens} * kWidth / 8, 256), kv_heads * shape.group),
                    dim3(256), 0, shape));
  GORGON_TRY(launch(context, "attention votes", attention_votes_sums_warpgroups_kernel<T, kWidth>,
                    dim3(shape.parts != nullptr ? count(shape.chunks, shape.block_chunks) : 1, count(query_rows, Tiles::kQueryRows), kv_heads), dim3(Tiles::kThreads),
                    Tiles::kFirstSharedBytes, shape));
  if (shape.parts != nullptr) {
    GORGON_TRY(launch(context, "attention votes", attention_votes_merge_kernel<true>, dim3(count(query_rows, kMergeRows), kv_heads), dim3(kMergeRows * kMergeStretches),
                      0, shape));
  }
  return launch(context, "attention votes", attention_votes_weights_warpgroups_kernel<T, kWidth>, dim3(count(shape.vote_rows, Tiles::kVoteKeys), kv_heads),
                dim3(Tiles::kThreads), Tiles::kSecondSharedBytes, shape);
}

template <class T>
Status launch_votes(const VotesShape& shape, int kv_heads, CudaContext& context) {
  if (shape.packed_queries != nullptr) {
    return shape.head_dim == 64 ? launch_votes_warpgroups<T, 64>(shape, kv_heads, context) : launch_votes_warpgroups<T, 128>(shape, kv_heads, context);
  }
  if (shape.head_dim <= 64) return launch_votes<T, 64>(shape, kv_heads, context);
  if (shape.head_dim <= 128) return launch_votes<T, 128>(shape, kv_heads, context);
  return launch_votes<T, 256>(shape, kv_heads, context);
}

Status launch_f32_votes(const VotesShape& shape, int kv_heads, CudaContext& context) {
  const int64_t tile_bytes = kLanesTile * core_head_width(shape.head_dim) * 4, query_rows = int64_t{shape.tokens} * shape.group;
  GORGON_TRY(launch(context, "attention votes", attention_votes_lane_sums_kernel,
                    dim3(shape.parts != nullptr ? count(shape.chunks, shape.block_chunks) : 1, count(query_rows, kLanesTile), kv_heads), dim3(kLanesThreads), 2 * tile_bytes, shape));
  if (shape.parts != nullptr) {
    GORGON_TRY(launch(context, "attention votes", attention_votes_merge_kernel<false>, dim3(count(query_rows, kMergeRows), kv_heads),
                      dim3(kMergeRows * kMergeStretches), 0, shape));
  }
  return launch(context, "attention votes", attention_votes_lane_weights_kernel, dim3(count(shape.vote_rows, kLanesTile), kv_heads * shape.group), dim3(kLanesThreads),
                2 * tile_bytes + kLanesTile * kLanesTile * 4, shape);
}

}  // namespace

Status attention_votes_cuda(const AttentionVotesArgs& args, CudaContext& context) {
  if (args.vote_rows == 0) return {};
  VotesShape shape{};
  shape.q = args.q;
  shape.q_stride = args.q_stride;
  shape.heads = args.heads;
  shape.votes = args.votes;
  shape.votes_stride = args.votes_stride;
  shape.tokens = static_cast<int>(args.tokens);
  shape.rows = static_cast<int>(args.rows);
  shape.vote_rows = static_cast<int>(args.vote_rows);
  shape.chunks = static_cast<int>(divide_up(args.rows + args.tokens, kChunkRows));
  shape.group = static_cast<int>(args.query_heads / args.kv_heads);
  shape.head_dim = static_cast<int>(args.head_dim);
  shape.position = args.position;
  shape.window = args.window;
  shape.scale = (args.dtype == DType::kF32 ? 1.0f : kLog2E) / sqrtf(static_cast<float>(args.head_dim));

  // Enough query rows for a block on every multiprocessor: no chunk needs a block of its own.
  const int64_t query_rows = args.tokens * args.query_heads;
  const bool splits = query_rows < int64_t{context.multiprocessors} * kThreads && shape.chunks > 1;
  // About four blocks on each.
  const int64_t tiles = divide_up(query_rows, args.kv_heads * kThreads) * args.kv_heads;
  const int64_t block_chunks = shape.chunks * tiles / (int64_t{4} * context.multiprocessors + 1);
  shape.block_chunks = static_cast<int>(block_chunks < 1 ? 1 : block_chunks > kMostBlockChunks ? kMostBlockChunks : block_chunks);
  // Not by the number of tokens: the votes of one call are those of several.
  const bool packs = context.hopper && args.dtype != DType::kF32 && (args.head_dim == 64 || args.head_dim == 128);
  shape.padded_tokens = static_cast<int>(round_up(args.tokens, kPaddedTokens));
  const int64_t padded_rows = shape.padded_tokens * args.query_heads;
  const int64_t queries_bytes = padded_rows * static_cast<int64_t>(sizeof(VotingQuery)), packed_bytes = packs ? padded_rows * args.head_dim * 2 : 0;
  const int64_t parts_bytes = splits ? query_rows * shape.chunks * static_cast<int64_t>(sizeof(float2)) : 0;
  std::byte* scratch = nullptr;
  GORGON_TRY(context.scratch(queries_bytes + packed_bytes + parts_bytes, &scratch));
  shape.queries = reinterpret_cast<VotingQuery*>(scratch);
  shape.packed_queries = packs ? scratch + queries_bytes : nullptr;
  shape.parts = splits ? reinterpret_cast<float2*>(scratch + queries_bytes + packed_bytes) : nullptr;
  const int kv_heads = static_cast<int>(args.kv_heads);
  switch (args.dtype) {
    case DType::kBf16: return launch_votes<__nv_bfloat16>(shape, kv_heads, context);
    case DType::kF16: return launch_votes<__half>(shape, kv_heads, context);
    default: return launch_f32_votes(shape, kv_heads, context);
  }
}

}  // namespace gorgon

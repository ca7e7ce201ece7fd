// attention_votes on Hopper, for heads of 64 and 128: both passes keep one side of the product in registers and let the other stream by in
// bulk copies; a warp of the block asks for them, two warpgroups multiply (wgmma, left operand from registers) and take exponentials.
//
//   pack     queries, as cores per query head, so that 64 of them are one piece of memory
//   pass 1   128 query rows of a KV head (64 per warpgroup) stay, keys come in tiles of 128
//   pass 2   256 keys (128 per warpgroup) stay, queries come in tiles of 64, each with what pass 1 found out about it
//
// While one warpgroup takes exponentials the other one's products run: both take about as long.
// Chunks, stretches and the order of the queries are those of attention_votes.cu.
#pragma once

#include "common/wgmma.cuh"
#include "ops/attention_votes_parts.cuh"

namespace gorgon {

template <int kWidth>
struct VotesHopperTiles {
  static constexpr int kThreads = 3 * kWarpgroup;
  static constexpr int kRowGroupBytes = kWidth / 8 * 128;
  static constexpr int kSteps = kWidth / 16;

  static constexpr int kQueryRows = 128;
  static constexpr int kKeys = 128;
  static constexpr int kKeyStages = 4;
  static constexpr uint32_t kKeyTileBytes = kKeys * kWidth * 2;
  static constexpr int kFirstSharedBytes = kQueryRows * kWidth * 2 + kKeyStages * kKeyTileBytes + 128;

  static constexpr int kVoteKeys = 256;
  static constexpr int kQueries = static_cast<int>(kPaddedTokens);
  static constexpr int kQueryStages = 6;
  static constexpr uint32_t kQueryTileBytes = kQueries * kWidth * 2;
  static constexpr uint32_t kKnownBytes = kQueries * sizeof(VotingQuery);
  static constexpr uint32_t kStageBytes = kQueryTileBytes + kKnownBytes;
  static constexpr int kSecondSharedBytes = kVoteKeys * kWidth * 2 + kQueryStages * kStageBytes + 128;
};

/** Queries as cores, zeros past the last; and nothing known of those. Grid: pieces of 16 bytes of a query head, query heads. */
template <class T, int kWidth>
__global__ __launch_bounds__(256) void attention_votes_pack_kernel(const VotesShape shape) {
  let_next_start();
  wait_for_previous();
  const int piece = blockIdx.x * blockDim.x + threadIdx.x, query_head = blockIdx.y;
  if (piece >= shape.padded_tokens * (kWidth / 8)) return;
  const int token = piece % 8 + piece / kWidth * 8, part = piece / 8 % (kWidth / 8);
  uint4 value = make_uint4(0, 0, 0, 0);
  if (token < shape.tokens) value = *reinterpret_cast<const uint4*>(static_cast<const T*>(shape.q) + token * shape.q_stride + query_head * kWidth + part * 8);
  static_cast<uint4*>(shape.packed_queries)[int64_t{query_head} * shape.padded_tokens * (kWidth / 8) + piece] = value;
  if (part == 0 && token >= shape.tokens) shape.queries[int64_t{query_head} * shape.padded_tokens + token] = {0.0f, 0.0f, 0, 0};
}

/** Grid: groups of chunks or 1, tiles of query rows, KV heads. */
template <class T, int kWidth>
__global__ __launch_bounds__(VotesHopperTiles<kWidth>::kThreads, 1) void attention_votes_sums_warpgroups_kernel(const VotesShape shape) {
#ifdef GORGON_SM90A
  using Tiles = VotesHopperTiles<kWidth>;
  constexpr int kStages = Tiles::kKeyStages;
  extern __shared__ __align__(1024) unsigned char shared[];
  unsigned char* const k_shared = shared + Tiles::kQueryRows * kWidth * 2;
  uint64_t* const full = reinterpret_cast<uint64_t*>(k_shared + kStages * Tiles::kKeyTileBytes);
  uint64_t* const empty = full + kStages;
  let_next_start();
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(&full[stage], 1);
      barrier_init(&empty[stage], 2 * kWarpgroup / kWarp);
    }
    barrier_init_done();
  }
  __syncthreads();
  wait_for_previous();

  // Said to be the same in all lanes: what the branches around wgmma depend on.
  const int warpgroup = __shfl_sync(kAllLanes, threadIdx.x / kWarpgroup, 0);
  const int kv_head = blockIdx.z, query_rows = shape.tokens * shape.group;
  const int first_query = (gridDim.y - 1 - blockIdx.y) * Tiles::kQueryRows;
  const KvHead head = shape.heads[kv_head];
  const int all_keys = shape.rows + (min(first_query + Tiles::kQueryRows, query_rows) - 1) / shape.group + 1;
  const int first_key = __shfl_sync(kAllLanes, first_row_of(shape, head, first_query / shape.group), 0) / Tiles::kKeys * Tiles::kKeys;
  int from = first_key, to = all_keys;
  if (shape.parts != nullptr) {
    const int first_chunk = blockIdx.x * shape.block_chunks, last_chunk = min(first_chunk + shape.block_chunks, shape.chunks);
    from = max(from, first_chunk * kChunkRows);
    to = min(to, last_chunk * kChunkRows);
    // Chunks of which no row sees a key.
    const int row = first_query + threadIdx.x;
    for (int chunk = first_chunk; chunk < last_chunk; ++chunk) {
      if ((from >= to || chunk < from / kChunkRows || chunk > (to - 1) / kChunkRows) && static_cast<int>(threadIdx.x) < Tiles::kQueryRows && row < query_rows) {
        shape.parts[(int64_t{kv_head} * shape.chunks + chunk) * query_rows + row] = make_float2(-INFINITY, 0.0f);
      }
    }
  }
  const int tiles = to > from ? (to - from + Tiles::kKeys - 1) / Tiles::kKeys : 0;

  if (warpgroup == 0) {
    fewer_registers<24>();
    if (threadIdx.x == 0) {
      const int all_rows = shape.rows + shape.tokens;
      const std::byte* k = head.k + int64_t{from} * kWidth * 2;
      RingPlace<kStages> place;
      for (int tile = 0; tile < tiles; ++tile, k += Tiles::kKeyTileBytes, place.advance()) {
        // The cache ends after a multiple of 64 rows; scores of what is not there are replaced.
        const uint32_t bytes = from + tile * Tiles::kKeys + Tiles::kKeys / 2 < all_rows ? Tiles::kKeyTileBytes : Tiles::kKeyTileBytes / 2;
        barrier_wait(&empty[place.stage], place.parity ^ 1);
        barrier_expect(&full[place.stage], bytes);
        bulk_copy(k_shared + place.stage * Tiles::kKeyTileBytes, k, bytes, &full[place.stage]);
      }
    }
    return;
  }
  more_registers<240>();
  const int group = warpgroup - 1, thread = threadIdx.x % kWarpgroup, warp = thread / kWarp, lane = thread % kWarp;
  const int first_row = first_query + group * (Tiles::kQueryRows / 2);
  uint32_t left[1][Tiles::kSteps][4];
  {
    const T* const q = static_cast<const T*>(shape.q) + int64_t{kv_head} * shape.group * kWidth;
    unsigned char* const q_shared = shared + group * (Tiles::kQueryRows / 2) * kWidth * 2;
    for (int i = thread; i < Tiles::kQueryRows / 2 * (kWidth / 8); i += kWarpgroup) {
      const int row = i % 8 + i / kWidth * 8, part = i / 8 % (kWidth / 8), query = first_row + row;
      uint4 value = make_uint4(0, 0, 0, 0);
      if (query < query_rows) value = *reinterpret_cast<const uint4*>(q + query / shape.group * shape.q_stride + query % shape.group * kWidth + part * 8);
      *reinterpret_cast<uint4*>(q_shared + row / 8 * Tiles::kRowGroupBytes + part * 128 + row % 8 * 16) = value;
    }
    group_sync(1 + group, kWarpgroup);
    load_left(left, shared_address(q_shared) + warp * 2 * Tiles::kRowGroupBytes, kWidth);
  }
  int begin[2], end[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int token = min(first_row + warp * 16 + lane / 4 + i * 8, query_rows - 1) / shape.group;
    begin[i] = first_row_of(shape, head, token);
    end[i] = shape.rows + token + 1;
  }
  RunningSums<true> whole[2];
  // Each lane has a maximum and a sum of its own columns; the four of a row meet at the end of a chunk.
  float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
  const auto weigh = [&](float(&s)[Tiles::kKeys / 2], int tile) {
    const int key = from + tile * Tiles::kKeys;
    if (key + Tiles::kKeys > end[0] || key < begin[1]) {
#pragma unroll
      for (int i = 0; i < Tiles::kKeys / 2; ++i) {
        const int column = key + i / 4 * 8 + 2 * (lane % 4) + i % 2, row = i % 4 / 2;
        if (column < begin[row] || column >= end[row]) s[i] = -INFINITY;
      }
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float tile_top = -INFINITY;
#pragma unroll
      for (int i = 2 * row; i < Tiles::kKeys / 2; i += 4) tile_top = fmaxf(tile_top, fmaxf(s[i], s[i + 1]));
      const float new_top = fmaxf(top[row], __fmul_rn(tile_top, shape.scale));
      const float shift = new_top == -INFINITY ? 0.0f : new_top;
      float even_sum = 0.0f, odd_sum = 0.0f;
#pragma unroll
      for (int i = 2 * row; i < Tiles::kKeys / 2; i += 4) {
        even_sum += fast_exp2(fmaf(s[i], shape.scale, -shift));
        odd_sum += fast_exp2(fmaf(s[i + 1], shape.scale, -shift));
      }
      sum[row] = fmaf(sum[row], fast_exp2(top[row] - shift), even_sum + odd_sum);
      top[row] = new_top;
    }
    if ((key + Tiles::kKeys) % kChunkRows != 0 && tile + 1 < tiles) return;
    const int chunk = key / kChunkRows;
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const float chunk_top = quad_max(top[row]);
      const float2 state = make_float2(chunk_top, quad_sum(sum[row] == 0.0f ? 0.0f : sum[row] * fast_exp2(top[row] - chunk_top)));
      const int query = first_row + warp * 16 + lane / 4 + row * 8;
      if (shape.parts == nullptr) {
        whole[row].add(chunk, state);
      } else if (lane % 4 == 0 && query < query_rows) {
        shape.parts[(int64_t{kv_head} * shape.chunks + chunk) * query_rows + query] = state;
      }
      top[row] = -INFINITY;
      sum[row] = 0.0f;
    }
  };

  const uint64_t k_operand = wgmma_operand(shared_address(k_shared), 128, Tiles::kRowGroupBytes);
  float s[Tiles::kKeys / 2];
  RingPlace<kStages> place;
  for (int tile = 0; tile < tiles; ++tile, place.advance()) {
    barrier_wait(&full[place.stage], place.parity);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < Tiles::kSteps; ++step) {
      Wgmma<T, Tiles::kKeys>::run(s, left[0][step], k_operand + place.stage * (Tiles::kKeyTileBytes / 16) + step * (256 / 16), step != 0);
    }
    wgmma_commit();
    wgmma_wait<0>();
    pin(s);
    if (lane == 0) barrier_arrive(&empty[place.stage]);
    weigh(s, tile);
  }
  if (shape.parts != nullptr) return;
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    whole[row].finish();
    const int query = first_row + warp * 16 + lane / 4 + row * 8;
    if (lane % 4 == 0 && query < query_rows) store_query(shape, kv_head, query, whole[row].whole, begin[row]);
  }
#endif  // GORGON_SM90A
}

/** Grid: tiles of keys, KV heads. */
template <class T, int kWidth>
__global__ __launch_bounds__(VotesHopperTiles<kWidth>::kThreads, 1) void attention_votes_weights_warpgroups_kernel(const VotesShape shape) {
#ifdef GORGON_SM90A
  using Tiles = VotesHopperTiles<kWidth>;
  constexpr int kStages = Tiles::kQueryStages, kGroupKeys = Tiles::kVoteKeys / 2;
  extern __shared__ __align__(1024) unsigned char shared[];
  unsigned char* const q_shared = shared + Tiles::kVoteKeys * kWidth * 2;
  uint64_t* const full = reinterpret_cast<uint64_t*>(q_shared + kStages * Tiles::kStageBytes);
  uint64_t* const empty = full + kStages;
  uint64_t* const keys_full = empty + kStages;
  let_next_start();
  if (threadIdx.x == 0) {
    barrier_init(keys_full, 1);
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(&full[stage], 1);
      barrier_init(&empty[stage], 2 * kWarpgroup / kWarp);
    }
    barrier_init_done();
  }
  __syncthreads();
  wait_for_previous();

  const int warpgroup = __shfl_sync(kAllLanes, threadIdx.x / kWarpgroup, 0);
  const int kv_head = blockIdx.y, first_key = blockIdx.x * Tiles::kVoteKeys;
  const int first_tile = max(0, first_key - shape.rows) / Tiles::kQueries;
  const int tiles = shape.padded_tokens / Tiles::kQueries - first_tile, items = tiles * shape.group;

  if (warpgroup == 0) {
    fewer_registers<24>();
    if (threadIdx.x == 0) {
      // The cache ends after a multiple of 64 rows; keys behind it get no votes.
      const int rows = min(Tiles::kVoteKeys, (shape.rows + shape.tokens - first_key + 63) / 64 * 64);
      barrier_expect(keys_full, rows * kWidth * 2);
      bulk_copy(shared, shape.heads[kv_head].k + int64_t{first_key} * kWidth * 2, rows * kWidth * 2, keys_full);
      RingPlace<kStages> place;
      for (int member = 0; member < shape.group; ++member) {
        const int64_t first_query = int64_t{kv_head * shape.group + member} * shape.padded_tokens + first_tile * Tiles::kQueries;
        const unsigned char* q = static_cast<const unsigned char*>(shape.packed_queries) + first_query * kWidth * 2;
        const VotingQuery* known = shape.queries + first_query;
        for (int tile = 0; tile < tiles; ++tile, q += Tiles::kQueryTileBytes, known += Tiles::kQueries, place.advance()) {
          unsigned char* const stage = q_shared + place.stage * Tiles::kStageBytes;
          barrier_wait(&empty[place.stage], place.parity ^ 1);
          barrier_expect(&full[place.stage], Tiles::kStageBytes);
          bulk_copy(stage, q, Tiles::kQueryTileBytes, &full[place.stage]);
          bulk_copy(stage + Tiles::kQueryTileBytes, known, Tiles::kKnownBytes, &full[place.stage]);
        }
      }
    }
    return;
  }
  more_registers<240>();
  const int group = warpgroup - 1, warp = threadIdx.x % kWarpgroup / kWarp, lane = threadIdx.x % kWarp;
  const int group_key = first_key + group * kGroupKeys;
  // This lane's rows in the products are keys key_row, + 8, + 64, + 72; the one it sums is the (lane % 4)th of them.
  const int key_row = group_key + warp * 16 + lane / 4;
  const int own_key = key_row + lane % 2 * 8 + lane % 4 / 2 * 64;
  const bool is_voted = own_key < shape.vote_rows;
  uint32_t left[2][1][Tiles::kSteps][4];
  barrier_wait(keys_full, 0);
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    load_left(left[m], shared_address(shared) + (group * kGroupKeys / 8 + m * 8 + warp * 2) * Tiles::kRowGroupBytes, kWidth);
  }

  float* const first_vote = shape.votes + int64_t{kv_head} * shape.group * shape.votes_stride + own_key;
  float votes = 0.0f;
  int member = 0, tile = 0;
  constexpr int kHalfTile = Tiles::kQueries / 8 / 2;
  const auto add_votes = [&](float(&s)[2][Tiles::kQueries / 2], int stage) {
    if (tile == 0 && is_voted) votes = first_vote[member * shape.votes_stride];
    const VotingQuery* const queries = reinterpret_cast<const VotingQuery*>(q_shared + stage * Tiles::kStageBytes + Tiles::kQueryTileBytes);
    // Where all keys come before all of the tile's queries, only those that are not there need a thought, and their share is 0.
    const bool is_masked = shape.window > 0 || group_key + kGroupKeys > shape.rows + (first_tile + tile) * Tiles::kQueries + 1;
    const auto add = [&](int first) {
#pragma unroll
      for (int j = first; j < first + kHalfTile; ++j) {
        const VotingQuery even = queries[8 * j + 2 * (lane % 4)], odd = queries[8 * j + 2 * (lane % 4) + 1];
        add_weights(
            votes, even, odd, shape.scale, is_masked, [&](int i, int query) { return s[i / 2][4 * j + i % 2 * 2 + query]; },
            [&](int i) { return key_row + i % 2 * 8 + i / 2 * 64; });
      }
    };
    add(0);
    // A window of 32 tokens or fewer leaves the second half empty.
    if ((first_tile + tile) * Tiles::kQueries + 8 * kHalfTile < shape.tokens) add(kHalfTile);
    if (++tile == tiles) {
      if (is_voted) first_vote[member * shape.votes_stride] = votes;
      tile = 0;
      ++member;
    }
  };

  const uint64_t q_operand = wgmma_operand(shared_address(q_shared), 128, Tiles::kRowGroupBytes);
  float s[2][Tiles::kQueries / 2];
  RingPlace<kStages> place;
  for (int item = 0; item < items; ++item, place.advance()) {
    barrier_wait(&full[place.stage], place.parity);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < Tiles::kSteps; ++step) {
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        Wgmma<T, Tiles::kQueries>::run(s[m], left[m][0][step], q_operand + place.stage * (Tiles::kStageBytes / 16) + step * (256 / 16), step != 0);
      }
    }
    wgmma_commit();
    wgmma_wait<0>();
    pin(s[0]);
    pin(s[1]);
    add_votes(s, place.stage);
    __syncwarp();
    if (lane == 0) barrier_arrive(&empty[place.stage]);
  }
#endif  // GORGON_SM90A
}

}  // namespace gorgon

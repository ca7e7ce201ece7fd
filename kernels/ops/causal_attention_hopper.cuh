// causal_attention on Hopper: one block per 128 query rows; a warp feeds keys and values to two warpgroups of 64 rows each. The rows are tokens
// of one query head; few tokens are those of all heads of a KV head, head after head, which then reads its keys once.
//
//   query rows   0 ..  63   warpgroup 1  |  scores 64 x 128 and sums 64 x D of each stay in its registers
//               64 .. 127   warpgroup 2  |
//   keys         tiles of 128 rows from row 0 on, in rising order: K and V of a tile are 128 D values in one piece, one bulk copy each,
//                into two rings of two stages (64 + 64 KiB at D = 128, beside 32 KiB of queries)
//
// A warpgroup asks for the scores of tile j and for the weighted values of tile j - 1 together, and takes the exponentials of tile j while
// the tensor cores work on the latter. The two warpgroups take turns at asking, so that one's exponentials run beside the other's products:
// at D = 128 a tile costs the tensor cores 2048 clocks and the exponentials 1024. The weights never leave the registers: what wgmma
// returns is, rounded, what it takes as its left operand. V is taken as it lies, transposed by wgmma.
//
// Thirty-two tiles are a stretch. A stretch starts with a maximum and sums of its own, and is added to the ones before when it is over (those
// wait in shared memory, 64 KiB at D = 128). So a few rows over many keys, a message after a long conversation, can have a block for each
// stretch and a kernel that adds them up in the same order, with the same bits; many rows have one block for all.
//
// The last tokens see the most keys: their blocks come first, so that short ones fill the end. Heads are neighbours in the grid, so those of a KV
// head read the same keys at about the same time, from the second-level cache.
#pragma once

#include "common/hopper.cuh"
#include "common/wgmma.cuh"
#include "ops/attention_device.cuh"
#include "ops/causal_attention_shape.h"

namespace gorgon {

template <int kWidth>
struct CausalHopperTiles {
  static constexpr int kGroups = 2;
  static constexpr int kGroupRows = 64;
  static constexpr int kQueryRows = kGroups * kGroupRows;
  static constexpr int kKeys = 128;
  static constexpr int kStages = 2;
  /** Tiles of a stretch. */
  static constexpr int kStretch = 32;
  static constexpr int kThreads = (1 + kGroups) * kWarpgroup;
  static constexpr uint32_t kRowGroupBytes = kWidth / 8 * 128;
  static constexpr uint32_t kQueryBytes = kQueryRows * kWidth * 2;
  static constexpr uint32_t kTileBytes = kKeys * kWidth * 2;
  static constexpr uint32_t kTotalBytes = kQueryRows * kWidth * 4;
  static constexpr int kSharedBytes = kQueryBytes + 2 * kStages * kTileBytes + kTotalBytes + 128;
};

/** Maximum (times scale and log2 e) and sum of the weights of a row's keys in the stretches so far, or in one. */
struct StretchState {
  float base, sum;
};

/** Adds a stretch's state; what the sums of values so far and of the stretch are to be multiplied by comes back. An empty one changes nothing. */
__device__ __forceinline__ void add_stretch(StretchState& total, StretchState stretch, float& keep_total, float& keep_stretch) {
  const float base = fmaxf(total.base, stretch.base);
  const float shift = base == -INFINITY ? 0.0f : base;
  keep_total = fast_exp2(total.base - shift);
  keep_stretch = fast_exp2(stretch.base - shift);
  total.base = base;
  total.sum = fmaf(total.sum, keep_total, __fmul_rn(stretch.sum, keep_stretch));
}
__device__ __forceinline__ float add_values(float total, float keep_total, float stretch, float keep_stretch) {
  return fmaf(total, keep_total, __fmul_rn(stretch, keep_stretch));
}
__device__ __forceinline__ float share_of(float sum) { return sum == 0.0f ? 0.0f : 1.0f / sum; }

#ifdef GORGON_SM90A

/** Two rows of one lane: keys seen, running maximum (times scale and log2 e), this lane's part of the running sum. */
struct RowPair {
  int begin[2], end[2];
  float base[2], sum[2];
};

/** Scores of a tile become weights; what the sums so far are to be multiplied by comes back in `keep`. */
template <int n>
__device__ __forceinline__ void weigh(float (&s)[n], int first_key, float scale_log2, RowPair& rows, float (&keep)[2]) {
  const int lane = threadIdx.x % kWarp;
  if (first_key + 2 * n > min(rows.end[0], rows.end[1]) || first_key < max(rows.begin[0], rows.begin[1])) {
    const int column = first_key + 2 * (lane % 4);
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const int key = column + i / 4 * 8 + i % 2, row = i % 4 / 2;
      if (key < rows.begin[row] || key >= rows.end[row]) s[i] = -INFINITY;
    }
  }
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    float top = -INFINITY;
#pragma unroll
    for (int i = 0; i < n; i += 4) top = fmaxf(top, fmaxf(s[i + 2 * row], s[i + 2 * row + 1]));
    // Equal maxima must give a factor of exactly 1: the product is rounded once and kept, not fused into the difference.
    const float base = fmaxf(rows.base[row], __fmul_rn(quad_max(top), scale_log2));
    const float shift = base == -INFINITY ? 0.0f : base;
    keep[row] = fast_exp2(rows.base[row] - shift);
    rows.base[row] = base;
    float sum = 0.0f, odd_sum = 0.0f;
#pragma unroll
    for (int i = 0; i < n; i += 4) {
      float& even = s[i + 2 * row];
      float& odd = s[i + 2 * row + 1];
      even = fast_exp2(fmaf(even, scale_log2, -shift));
      odd = fast_exp2(fmaf(odd, scale_log2, -shift));
      sum += even;
      odd_sum += odd;
    }
    rows.sum[row] = fmaf(rows.sum[row], keep[row], sum + odd_sum);
  }
}

#endif  // GORGON_SM90A

template <class T, int kWidth>
__global__ __launch_bounds__(CausalHopperTiles<kWidth>::kThreads, 1) void causal_attention_warpgroups_kernel(const CausalAttentionShape shape) {
#ifdef GORGON_SM90A
  using Tiles = CausalHopperTiles<kWidth>;
  constexpr int kStages = Tiles::kStages;
  extern __shared__ __align__(1024) unsigned char shared[];
  unsigned char* const q_shared = shared;
  unsigned char* const k_shared = q_shared + Tiles::kQueryBytes;
  unsigned char* const v_shared = k_shared + kStages * Tiles::kTileBytes;
  float* const totals_shared = reinterpret_cast<float*>(v_shared + kStages * Tiles::kTileBytes);
  uint64_t* const barriers = reinterpret_cast<uint64_t*>(v_shared + kStages * Tiles::kTileBytes + Tiles::kTotalBytes);
  uint64_t* const k_full = barriers;
  uint64_t* const k_empty = k_full + kStages;
  uint64_t* const v_full = k_empty + kStages;
  uint64_t* const v_empty = v_full + kStages;

  let_next_start();
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(&k_full[stage], 1);
      barrier_init(&v_full[stage], 1);
      barrier_init(&k_empty[stage], Tiles::kGroups * kWarpgroup / kWarp);
      barrier_init(&v_empty[stage], Tiles::kGroups * kWarpgroup / kWarp);
    }
    barrier_init_done();
  }
  __syncthreads();
  wait_for_previous();

  // Said to be the same in all lanes: what the branches around wgmma depend on.
  const int warpgroup = __shfl_sync(kAllLanes, threadIdx.x / kWarpgroup, 0);
  const int first_head = blockIdx.x * shape.block_heads;
  const int first_out = (gridDim.y - 1 - blockIdx.y) * shape.block_tokens;
  const int out_rows = shape.tokens - shape.skip;
  const KvHead head = shape.heads[first_head / shape.group];
  const int first_token = shape.skip + first_out;
  const int last_token = min(first_token + shape.block_tokens, shape.tokens) - 1;
  // Eight neighbouring rows, from a multiple of eight, are of one head.
  const auto head_of = [&](int row) { return row * shape.head_of_row >> 16; };
  const auto out_row_of = [&](int row) { return first_out + row - head_of(row) * shape.block_tokens; };
  const auto is_real = [&](int row) { return head_of(row) < shape.block_heads && out_row_of(row) < out_rows; };
  const auto part_of = [&](int row) { return (int64_t{blockIdx.z} * shape.query_heads + first_head + head_of(row)) * out_rows + out_row_of(row); };
  const int first_row = first_row_in_window(head.positions, shape.rows + first_token, shape.position + first_token, shape.window);
  int first_tile = __shfl_sync(kAllLanes, first_row, 0) / Tiles::kKeys;
  int tiles = (shape.rows + last_token) / Tiles::kKeys + 1;
  if (shape.parts != nullptr) {
    first_tile = max(first_tile, static_cast<int>(blockIdx.z) * Tiles::kStretch);
    tiles = min(tiles, static_cast<int>(blockIdx.z + 1) * Tiles::kStretch);
    if (first_tile >= tiles) {  // no row of the block sees a key of this stretch
      const int row = threadIdx.x;
      if (row < Tiles::kQueryRows && is_real(row)) static_cast<StretchState*>(shape.part_states)[part_of(row)] = {-INFINITY, 0.0f};
      return;
    }
  }

  if (warpgroup == 0) {
    fewer_registers<24>();
    if (threadIdx.x == 0) {
      const int all_rows = shape.rows + shape.tokens;
      const unsigned char* k = reinterpret_cast<const unsigned char*>(head.k) + int64_t{first_tile} * Tiles::kTileBytes;
      const unsigned char* v = reinterpret_cast<const unsigned char*>(head.v) + int64_t{first_tile} * Tiles::kTileBytes;
      RingPlace<kStages> place;
      for (int tile = first_tile; tile < tiles; ++tile, k += Tiles::kTileBytes, v += Tiles::kTileBytes, place.advance()) {
        // The cache ends after a multiple of 64 rows. Where a tile's second half is behind the end, the first is copied again: its weights
        // are zero, but the values they meet must be finite.
        const bool whole = tile * Tiles::kKeys + Tiles::kKeys / 2 < all_rows;
        constexpr uint32_t kHalf = Tiles::kTileBytes / 2;
        unsigned char* const k_to = k_shared + place.stage * Tiles::kTileBytes;
        barrier_wait(&k_empty[place.stage], place.parity ^ 1);
        barrier_expect(&k_full[place.stage], Tiles::kTileBytes);
        bulk_copy(k_to, k, kHalf, &k_full[place.stage]);
        bulk_copy(k_to + kHalf, whole ? k + kHalf : k, kHalf, &k_full[place.stage]);
        unsigned char* const v_to = v_shared + place.stage * Tiles::kTileBytes;
        barrier_wait(&v_empty[place.stage], place.parity ^ 1);
        barrier_expect(&v_full[place.stage], Tiles::kTileBytes);
        bulk_copy(v_to, v, kHalf, &v_full[place.stage]);
        bulk_copy(v_to + kHalf, whole ? v + kHalf : v, kHalf, &v_full[place.stage]);
      }
    }
  } else {
    more_registers<240>();
    const int group = warpgroup - 1;
    const int thread = threadIdx.x % kWarpgroup, warp = thread / kWarp, lane = thread % kWarp;
    constexpr int kTurn = 1, kOwn = 3;  // barriers 1, 2: whose turn it is; 3, 4: a warpgroup's own

    {  // Query rows become cores. Eight lanes of a warp write the eight rows of a core.
      const T* q = static_cast<const T*>(shape.q) + int64_t{first_head} * kWidth;
      unsigned char* const to = q_shared + group * (Tiles::kQueryBytes / Tiles::kGroups);
      for (int i = thread; i < Tiles::kGroupRows * (kWidth / 8); i += kWarpgroup) {
        const int row = i % 8 + i / kWidth * 8, part = i / 8 % (kWidth / 8);
        const int block_row = group * Tiles::kGroupRows + row;
        uint4 value = make_uint4(0, 0, 0, 0);
        if (is_real(block_row)) {
          value = *reinterpret_cast<const uint4*>(q + (shape.skip + out_row_of(block_row)) * shape.q_stride + head_of(block_row) * kWidth + part * 8);
        }
        *reinterpret_cast<uint4*>(to + row / 8 * Tiles::kRowGroupBytes + part * 128 + row % 8 * 16) = value;
      }
      fence_async_proxy();
      group_sync(kOwn + group, kWarpgroup);
    }

    const int first_row_of_lane = group * Tiles::kGroupRows + warp * 16 + lane / 4;
    RowPair rows;
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const int token = min(shape.skip + out_row_of(first_row_of_lane + row * 8), shape.tokens - 1);
      rows.begin[row] = first_row_in_window(head.positions, shape.rows + token, shape.position + token, shape.window);
      rows.end[row] = shape.rows + token + 1;
      rows.base[row] = -INFINITY;
      rows.sum[row] = 0.0f;
    }

    StretchState total[2] = {{-INFINITY, 0.0f}, {-INFINITY, 0.0f}};
    bool has_total = false;
    float* const totals = totals_shared + group * (kWidth / 2 * kWarpgroup) + thread;
    float o[kWidth / 2], s[Tiles::kKeys / 2], keep[2];
    uint32_t p[Tiles::kKeys / 16][4];
#pragma unroll
    for (int i = 0; i < kWidth / 2; ++i) o[i] = 0.0f;

    const uint64_t q_operand = wgmma_operand(shared_address(q_shared) + group * (Tiles::kQueryBytes / Tiles::kGroups), 128, Tiles::kRowGroupBytes);
    const uint64_t k_operand = wgmma_operand(shared_address(k_shared), 128, Tiles::kRowGroupBytes);
    const uint64_t v_operand = wgmma_operand(shared_address(v_shared), Tiles::kRowGroupBytes, 128);
    const auto ask_scores = [&](int stage) {
      const uint64_t k = k_operand + stage * (Tiles::kTileBytes / 16);
#pragma unroll
      for (int step = 0; step < kWidth / 16; ++step) Wgmma<T, Tiles::kKeys>::run(s, q_operand + step * (256 / 16), k + step * (256 / 16), step != 0);
      wgmma_commit();
    };
    const auto ask_values = [&](int stage) {
      const uint64_t v = v_operand + stage * (Tiles::kTileBytes / 16);
#pragma unroll
      for (int step = 0; step < Tiles::kKeys / 16; ++step) Wgmma<T, kWidth>::run_transposed(o, p[step], v + step * (2 * Tiles::kRowGroupBytes / 16), 1);
      wgmma_commit();
    };
    const auto round_weights = [&] {
#pragma unroll
      for (int step = 0; step < Tiles::kKeys / 16; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) p[step][i] = pack_pair<T>(s[8 * step + 2 * i], s[8 * step + 2 * i + 1]);
      }
    };

    // Stages of K are taken one tile ahead of those of V.
    RingPlace<kStages> k_place, v_place;
    barrier_wait(&k_full[0], 0);
    wgmma_fence();
    ask_scores(0);
    if (group == 1 && first_tile + 1 < tiles) group_arrive(kTurn, 2 * kWarpgroup);
    wgmma_wait<0>();
    pin(s);
    if (lane == 0) barrier_arrive(&k_empty[0]);
    k_place.advance();
    weigh(s, first_tile * Tiles::kKeys, shape.scale_log2, rows, keep);
    round_weights();

    for (int tile = first_tile + 1; tile < tiles; ++tile) {
      barrier_wait(&v_full[v_place.stage], v_place.parity);  // asked for before K
      barrier_wait(&k_full[k_place.stage], k_place.parity);
      group_sync(kTurn + group, 2 * kWarpgroup);
      pin(o);
      pin(s);
      pin(p);
      wgmma_fence();
      ask_scores(k_place.stage);
      ask_values(v_place.stage);
      // The other one's turn; the last turn is nobody's to give back.
      if (group == 0 || tile + 1 < tiles) group_arrive(kTurn + 1 - group, 2 * kWarpgroup);
      wgmma_wait<1>();
      pin(s);
      if (lane == 0) barrier_arrive(&k_empty[k_place.stage]);
      k_place.advance();
      const bool starts_stretch = tile % Tiles::kStretch == 0;
      StretchState last[2];
      if (starts_stretch) {
#pragma unroll
        for (int row = 0; row < 2; ++row) {
          last[row] = {rows.base[row], quad_sum(rows.sum[row])};
          rows.base[row] = -INFINITY;
          rows.sum[row] = 0.0f;
        }
      }
      weigh(s, tile * Tiles::kKeys, shape.scale_log2, rows, keep);
      wgmma_wait<0>();
      pin(o);
      if (lane == 0) barrier_arrive(&v_empty[v_place.stage]);
      v_place.advance();
      round_weights();
      if (starts_stretch) {
        float keep_total[2], keep_last[2];
#pragma unroll
        for (int row = 0; row < 2; ++row) add_stretch(total[row], last[row], keep_total[row], keep_last[row]);
#pragma unroll
        for (int i = 0; i < kWidth / 2; ++i) {
          const float before = has_total ? totals[i * kWarpgroup] : 0.0f;
          totals[i * kWarpgroup] = add_values(before, keep_total[i % 4 / 2], o[i], keep_last[i % 4 / 2]);
          o[i] = 0.0f;
        }
        has_total = true;
      } else {
#pragma unroll
        for (int i = 0; i < kWidth / 2; ++i) o[i] *= keep[i % 4 / 2];
      }
    }
    barrier_wait(&v_full[v_place.stage], v_place.parity);
    pin(o);
    pin(p);
    wgmma_fence();
    ask_values(v_place.stage);
    wgmma_wait<0>();
    pin(o);

    StretchState last[2];
#pragma unroll
    for (int row = 0; row < 2; ++row) last[row] = {rows.base[row], quad_sum(rows.sum[row])};
    if (shape.parts != nullptr) {
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        if (!is_real(first_row_of_lane + row * 8)) continue;
        const int64_t part = part_of(first_row_of_lane + row * 8);
        if (lane % 4 == 0) static_cast<StretchState*>(shape.part_states)[part] = last[row];
        float* const to = shape.parts + part * kWidth + 2 * (lane % 4);
#pragma unroll
        for (int j = 0; j < kWidth / 8; ++j) *reinterpret_cast<float2*>(to + 8 * j) = make_float2(o[4 * j + 2 * row], o[4 * j + 2 * row + 1]);
      }
      return;
    }
    float keep_total[2], keep_last[2];
#pragma unroll
    for (int row = 0; row < 2; ++row) add_stretch(total[row], last[row], keep_total[row], keep_last[row]);
    if (has_total) {
#pragma unroll
      for (int i = 0; i < kWidth / 2; ++i) o[i] = add_values(totals[i * kWarpgroup], keep_total[i % 4 / 2], o[i], keep_last[i % 4 / 2]);
    }
    const int64_t depth = int64_t{shape.query_heads} * kWidth;
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const float share = share_of(total[row].sum);
      const int block_row = first_row_of_lane + row * 8;
      if (!is_real(block_row)) continue;
      // A warp's eight rows by eight columns are one core: 128 bytes in one piece.
      T* const to = static_cast<T*>(shape.out) + core_element(out_row_of(block_row), int64_t{first_head + head_of(block_row)} * kWidth + 2 * (lane % 4), depth);
#pragma unroll
      for (int j = 0; j < kWidth / 8; ++j) {
        *reinterpret_cast<uint32_t*>(to + j / 8 * kBlockElements + j % 8 * kCoreElements) = pack_pair<T>(o[4 * j + 2 * row] * share, o[4 * j + 2 * row + 1] * share);
      }
    }
  }
#endif  // GORGON_SM90A
}

/** Adds up the stretches of each row, in order: a warp per row and query head, two columns of each 64 per lane. Grid: query heads, rows / 4. */
template <class T, int kWidth>
__global__ __launch_bounds__(128) void causal_attention_add_stretches_kernel(const CausalAttentionShape shape, int stretches) {
  let_next_start();
  wait_for_previous();
  const int query_head = blockIdx.x, out_rows = shape.tokens - shape.skip;
  const int row = blockIdx.y * 4 + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (row >= out_rows) return;
  StretchState total = {-INFINITY, 0.0f};
  float2 values[kWidth / 64] = {};
  for (int stretch = 0; stretch < stretches; ++stretch) {
    const int64_t part = (int64_t{stretch} * shape.query_heads + query_head) * out_rows + row;
    const StretchState state = static_cast<const StretchState*>(shape.part_states)[part];
    if (state.sum == 0.0f) continue;  // its values may not even have been written
    float keep_total, keep_stretch;
    add_stretch(total, state, keep_total, keep_stretch);
#pragma unroll
    for (int i = 0; i < kWidth / 64; ++i) {
      const float2 value = *reinterpret_cast<const float2*>(shape.parts + part * kWidth + 64 * i + 2 * lane);
      values[i].x = add_values(values[i].x, keep_total, value.x, keep_stretch);
      values[i].y = add_values(values[i].y, keep_total, value.y, keep_stretch);
    }
  }
  const float share = share_of(total.sum);
#pragma unroll
  for (int i = 0; i < kWidth / 64; ++i) {
    const int64_t at = core_element(row, int64_t{query_head} * kWidth + 64 * i + 2 * lane, int64_t{shape.query_heads} * kWidth);
    *reinterpret_cast<uint32_t*>(static_cast<T*>(shape.out) + at) = pack_pair<T>(values[i].x * share, values[i].y * share);
  }
}

}  // namespace gorgon

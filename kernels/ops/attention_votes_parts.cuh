// attention_votes_parts: what the kernels of attention_votes share: their arguments, the merge of chunks, and lanes that exchange weights.
#pragma once

#include "ops/attention_device.cuh"
#include "ops/attention_votes.h"

namespace gorgon {

/** Keys whose maximum and sum are found together; a multiple of every tile. */
constexpr int kChunkRows = 256;
/** Chunks of a stretch. */
constexpr int kStretch = 16;

/** Queries come in groups of so many where bulk copies take them. */
constexpr int64_t kPaddedTokens = 64;

/** What the second pass knows of a query: weight = 2^(score - shift) * share (f32: e^) for the rows from `begin` to before `end`. */
struct alignas(16) VotingQuery {
  float shift;
  float share;
  int begin;
  int end;
};

struct VotesShape {
  const void* q;
  int64_t q_stride;
  const KvHead* heads;
  float* votes;
  int64_t votes_stride;
  /** [Hkv][chunks][T * group]: maximum and sum; null where the first pass merges. */
  float2* parts;
  /** [Hq][padded tokens], those past T with a share of 0 where packed queries are */
  VotingQuery* queries;
  /** [Hq][padded tokens / 8][D' / 8] cores, zeros past T: for Hopper's second pass. */
  void* packed_queries;
  int tokens;
  /** Rounded up to kPaddedTokens. */
  int padded_tokens;
  int rows;
  int vote_rows;
  int chunks;
  /** Of a block of the first pass, where it does not merge. */
  int block_chunks;
  int group;
  int head_dim;
  int64_t position;
  int64_t window;
  /** Of scores: 1 / sqrt(D), times log2 e for 16-bit values. */
  float scale;
};

template <bool is_base2>
__device__ __forceinline__ float power(float x) { return is_base2 ? fast_exp2(x) : expf(x); }

/** Maximum and sum of one more chunk; those of no key are minus infinity and 0. */
template <bool is_base2>
__device__ __forceinline__ void merge_chunk(float2& state, float2 chunk) {
  if (chunk.y == 0.0f) return;
  if (state.y == 0.0f) {
    state = chunk;
    return;
  }
  const float top = fmaxf(state.x, chunk.x);
  state.y = fmaf(state.y, power<is_base2>(state.x - top), chunk.y * power<is_base2>(chunk.x - top));
  state.x = top;
}

__device__ __forceinline__ int first_row_of(const VotesShape& shape, const KvHead& head, int token) {
  return first_row_in_window(head.positions, shape.rows + token, shape.position + token, shape.window);
}

/** `row` counts a KV head's query rows: token * group + head of the group. */
__device__ __forceinline__ void store_query(const VotesShape& shape, int kv_head, int row, float2 state, int begin) {
  const int token = row / shape.group;
  VotingQuery& to = shape.queries[int64_t{kv_head * shape.group + row % shape.group} * shape.padded_tokens + token];
  to = {state.x, state.y == 0.0f ? 0.0f : 1.0f / state.y, begin, shape.rows + token + 1};
}

/** Merges chunk after chunk of one query, in rising order. */
template <bool is_base2>
struct RunningSums {
  float2 whole = make_float2(-INFINITY, 0.0f), stretch = make_float2(-INFINITY, 0.0f);

  __device__ __forceinline__ void add(int chunk, float2 state) {
    merge_chunk<is_base2>(stretch, state);
    if (chunk % kStretch == kStretch - 1) finish();
  }
  /** After the last chunk. */
  __device__ __forceinline__ void finish() {
    merge_chunk<is_base2>(whole, stretch);
    stretch = make_float2(-INFINITY, 0.0f);
  }
};

/** Where this lane's row is of the four cores ldmatrix loads: (rows, depth), (rows + 8, depth), (rows, depth + 8), ... for the left operand. */
__device__ __forceinline__ uint32_t left_row(int group_bytes) {
  const int lane = threadIdx.x % kWarp;
  return lane / 8 % 2 * group_bytes + lane / 16 * 128 + lane % 8 * 16;
}
/** ... (rows, depth), (rows, depth + 8), (rows + 8, depth), ... for the right one. */
__device__ __forceinline__ uint32_t right_row(int group_bytes) {
  const int lane = threadIdx.x % kWarp;
  return lane / 16 * group_bytes + lane / 8 % 2 * 128 + lane % 8 * 16;
}

template <int kLeft, int kSteps>
__device__ __forceinline__ void load_left(uint32_t (&left)[kLeft][kSteps][4], uint32_t rows, int width) {
  const int group_bytes = width / 8 * 128;
#pragma unroll
  for (int m = 0; m < kLeft; ++m) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      if (step * 16 >= width) continue;
      load_matrices(left[m][step], rows + m * 2 * group_bytes + left_row(group_bytes) + step * 256);
    }
  }
}

/** Lane q of four has item i of row i in x[i]; afterwards x[i] is item i' of row q that lane i had: a transposition of 4 by 4. */
__device__ __forceinline__ void exchange_rows(float2 (&x)[4]) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int step = 1; step <= 2; step *= 2) {
    const bool high = lane & step;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & step) continue;
      float2& low_item = x[i];
      float2& high_item = x[i + step];
      float2 other = high ? low_item : high_item;
      other.x = __shfl_xor_sync(kAllLanes, other.x, step);
      other.y = __shfl_xor_sync(kAllLanes, other.y, step);
      if (high) {
        low_item = other;
      } else {
        high_item = other;
      }
    }
  }
}

/**
 * Adds to `votes` what two neighbouring queries pay to a lane's keys, after an exchange with the three lanes that have the same keys and the
 * next queries: afterwards each of the four has added all eight queries, in rising order, to one key, the (lane % 4)th of those of key_at.
 * `score_at(i, 0)` and `(i, 1)` are the products of key_at(i) with the two.
 */
template <class ScoreAt, class KeyAt>
__device__ __forceinline__ void add_weights(float& votes, const VotingQuery& even, const VotingQuery& odd, float scale, bool is_masked, const ScoreAt& score_at,
                                            const KeyAt& key_at) {
  float2 weights[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    weights[i].x = fast_exp2(fmaf(score_at(i, 0), scale, -even.shift)) * even.share;
    weights[i].y = fast_exp2(fmaf(score_at(i, 1), scale, -odd.shift)) * odd.share;
    if (is_masked) {
      const int key = key_at(i);
      if (key < even.begin || key >= even.end) weights[i].x = 0.0f;
      if (key < odd.begin || key >= odd.end) weights[i].y = 0.0f;
    }
  }
  exchange_rows(weights);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    votes += weights[i].x;
    votes += weights[i].y;
  }
}

}  // namespace gorgon

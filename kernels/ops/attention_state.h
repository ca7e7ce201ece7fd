// attention_state: attention over some of the keys as a small value, and the merge that makes two such values one.
//
//   state of a query over keys J:  m = max over J of s_j,  l = sum of e^(s_j - m),  o[d] = sum of e^(s_j - m) v_j[d]
//   out = o / l
//
// Keys are taken in chunks of kChunkKeys, counted from the first row of the cache, so that the grouping of a query's sums depends on the
// number of keys before it and on nothing else: not on the rows of the call, the tree, or the prompt's chunks. Partial states are merged
// in chunk order. An empty state (no visible key) has m = -infinity and changes nothing.
// Source: flashinfer-ai/flashinfer:docs/tutorials/recursive_attention.rst
#pragma once

#include "common/simd.h"
#include "ops/kv_layout.h"
#include "ops/tile_product.h"

namespace gorgon::GORGON_ISA {

/** A multiple of kRowGroup. */
constexpr int64_t kChunkKeys = 128;
/** Query rows that go over a chunk together: their scores stay in the first-level cache. */
constexpr int64_t kBlockQueries = 48;

/** Floats of one state: m, l, 14 unused so that o is aligned, then o padded to whole tiles. */
static inline int64_t state_floats(int64_t head_dim) { return kLanes + round_up(head_dim, kTileDepth); }

/** A block of query rows of one KV head and the keys each may see, counted from the chunk's first key. */
struct ChunkQueries {
  /** f32 [rows, q_stride]: heads padded with zeros to whole tiles. */
  const float* q;
  int64_t q_stride;
  int64_t rows;
  /** i32 [rows] each: visible keys are [begin, end). */
  const int32_t* begin;
  const int32_t* end;
};

/** Turns scores [0, keys) into weights e^(s - max), zero outside [begin, end); returns max and sum. bf16 caches get bf16 weights. */
template <bool as_bf16>
static inline void scores_to_weights(float* scores, int64_t keys, int32_t begin, int32_t end, float scale, float* max_out, float* sum_out) {
  const float lowest = -INFINITY;
  if (begin < 0) begin = 0;
  // No visible key. Asked of the range, not of the maximum: scores that are NaN may leave it at -infinity too.
  if (begin >= end || begin >= keys) {
    for (int64_t j = 0; j < keys; j += kLanes) store(scores + j, zero());
    *max_out = lowest;
    *sum_out = 0.0f;
    return;
  }
  F32x16 top = broadcast(lowest);
  for (int64_t j = 0; j < keys; j += kLanes) {
    F32x16 s = load(scores + j) * broadcast(scale);
    if (end < j + kLanes) s = first_lanes(s, static_cast<int>(end - j), lowest);
    if (begin > j) {  // the keys before `begin` are out of the attention window
      const F32x16 outside = first_lanes(broadcast(lowest), static_cast<int>(begin - j), INFINITY);
      s = select_below(outside, 0.0f, outside, s);
    }
    store(scores + j, s);
    top = max(top, s);
  }
  const float m = reduce_max(top);
  F32x16 sum = zero();
  for (int64_t j = 0; j < keys; j += kLanes) {
    const F32x16 p = exp_of_nonpositive(load(scores + j) - broadcast(m));
    sum = sum + p;
    store(scores + j, as_bf16 ? round_bf16(p) : p);
  }
  *max_out = m;
  *sum_out = reduce_sum(sum);
}

static inline void scores_to_weights(float* scores, int64_t keys, int32_t begin, int32_t end, float scale, DType dtype, float* max_out,
                                     float* sum_out) {
  if (dtype == DType::kBf16) {
    scores_to_weights<true>(scores, keys, begin, end, scale, max_out, sum_out);
  } else {
    scores_to_weights<false>(scores, keys, begin, end, scale, max_out, sum_out);
  }
}

/** States of at most kBlockQueries rows over `groups` groups of one chunk's keys; `states` is [rows][state_floats]. */
static inline void attend_chunk(const ChunkQueries& queries, const PackedMatrix& k, const PackedMatrix& v, int64_t groups, int64_t head_dim,
                                float scale, float* states) {
  alignas(64) float scores[kBlockQueries * kChunkKeys];
  const int64_t stride = state_floats(head_dim), keys = groups * kRowGroup;
  tile_product(queries.q, queries.q_stride, queries.rows, k, 0, 2 * groups, scores, kChunkKeys, false);
  for (int64_t row = 0; row < queries.rows; ++row) {
    float* state = states + row * stride;
    scores_to_weights(scores + row * kChunkKeys, keys, queries.begin[row], queries.end[row], scale, k.dtype, &state[0], &state[1]);
  }
  tile_product(scores, kChunkKeys, queries.rows, v, 0, v.column_blocks(), states + kLanes, stride, false);
}

/** Makes a state over no keys. */
static inline void clear_state(float* state, int64_t head_dim) {
  for (int64_t d = 0; d < state_floats(head_dim); d += kLanes) store(state + d, zero());
  state[0] = -INFINITY;
}

/** The weighted sums of two states whose maxima differ from the common one by factors of `keep` and `take`. */
static inline void merge_sums(float* state, const float* part, float keep, float take, int64_t head_dim) {
  state[1] = state[1] * keep + part[1] * take;
  for (int64_t d = kLanes; d < kLanes + head_dim; d += kLanes) {
    store(state + d, fma(load(state + d), broadcast(keep), load(part + d) * broadcast(take)));
  }
}

static inline void copy_state(float* state, const float* part, int64_t head_dim) {
  std::memcpy(state, part, (kLanes + round_up(head_dim, kLanes)) * sizeof(float));
}

/** Adds to each of `rows` states its part over later keys. Sixteen rows share the exponentials. */
static inline void merge_rows(float* states, const float* parts, int64_t rows, int64_t head_dim) {
  const int64_t stride = state_floats(head_dim);
  alignas(64) float kept[kLanes] = {}, taken[kLanes] = {}, top[kLanes];
  for (int64_t first = 0; first < rows; first += kLanes) {
    const int64_t count = first + kLanes < rows ? kLanes : rows - first;
    float* state = states + first * stride;
    const float* part = parts + first * stride;
    for (int64_t i = 0; i < count; ++i) {
      kept[i] = state[i * stride];
      taken[i] = part[i * stride];
    }
    const F32x16 m = max(load(kept), load(taken));
    store(top, m);
    store(kept, exp(load(kept) - m));
    store(taken, exp(load(taken) - m));
    for (int64_t i = 0; i < count; ++i, state += stride, part += stride) {
      if (part[1] == 0.0f) continue;
      if (state[1] == 0.0f) {
        copy_state(state, part, head_dim);
        continue;
      }
      state[0] = top[i];
      merge_sums(state, part, kept[i], taken[i], head_dim);
    }
  }
}

/** Adds to one state its parts over later and later keys, `part_stride` floats apart. Sixteen parts share the exponentials. */
static inline void merge_parts(float* state, const float* parts, int64_t part_stride, int64_t count, int64_t head_dim) {
  alignas(64) float kept[kLanes] = {}, taken[kLanes] = {}, top[kLanes] = {};
  for (int64_t first = 0; first < count; first += kLanes) {
    const int64_t last = first + kLanes < count ? first + kLanes : count;
    float m = state[0];
    for (int64_t i = first; i < last; ++i) {
      const float* part = parts + i * part_stride;
      kept[i - first] = m;
      taken[i - first] = part[0];
      if (part[1] != 0.0f) m = m > part[0] ? m : part[0];
      top[i - first] = m;
    }
    store(kept, exp(load(kept) - load(top)));
    store(taken, exp(load(taken) - load(top)));
    for (int64_t i = first; i < last; ++i) {
      const float* part = parts + i * part_stride;
      if (part[1] == 0.0f) continue;
      if (state[1] == 0.0f) {
        copy_state(state, part, head_dim);
        continue;
      }
      state[0] = top[i - first];
      merge_sums(state, part, kept[i - first], taken[i - first], head_dim);
    }
  }
}

/** out[d] = o[d] / l, as bf16 values if asked; zeros for an empty state. */
static inline void finish_state(const float* state, int64_t head_dim, bool as_bf16, float* out) {
  const F32x16 l = broadcast(state[1] == 0.0f ? 1.0f : state[1]);
  for (int64_t d = 0; d < head_dim; d += kLanes) {
    const F32x16 value = load(state + kLanes + d) / l;
    store_first(out + d, as_bf16 ? round_bf16(value) : value, head_dim - d);
  }
}

/** First row a query at `position` sees through an attention window: 0 without one. Rows [0, rows) of `positions` are committed. */
static inline int64_t first_visible_row(const int32_t* positions, int64_t rows, int64_t position, int64_t window) {
  if (window <= 0 || positions == nullptr) return 0;
  const int64_t oldest = position - window + 1;
  int64_t low = 0, high = rows;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (positions[middle] < oldest) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

}  // namespace gorgon::GORGON_ISA

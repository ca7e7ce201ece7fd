// Model: weights, a backend, and the forward pass over a list of rows that may belong to several sessions.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "backend/backend.h"
#include "runtime/kv_cache.h"
#include "runtime/weights.h"

namespace gorgon {

/** Neighbouring rows of a pass that belong to one session. */
struct RowSegment {
  KvCache* cache;
  int64_t tokens;
  /** Of the first row (the root, when they are a tree). */
  int64_t position;
  /** Null: the rows follow each other in the text. Otherwise a tree: see tree_attention.h. */
  const int32_t* depths;
  const int32_t* paths;
  int64_t path_stride;
};

class Model {
 public:
  /** Loads everything; long. */
  static Status open(const ModelSpec& spec, std::shared_ptr<Model>* out);

  const ModelShape& shape() const { return shape_; }
  const Weights& weights() const { return weights_; }
  const Backend& backend() const { return *backend_; }
  int threads() const { return context_->threads(); }
  KvShape kv_shape() const { return {shape_.layers, shape_.kv_heads, shape_.head_dim, weights_.dtype}; }
  /** Floats from one hidden row to the next; the padding holds zeros. */
  int64_t hidden_stride() const { return round_up(shape_.hidden, kTileDepth); }
  bool rounds_to_bf16() const { return weights_.dtype == DType::kBf16; }

  /** Ids a Medusa head can draft. */
  int64_t draft_vocab() const;

  /** Held by whoever runs a pass: the workspace and the threads serve one call at a time. */
  std::mutex& mutex() { return mutex_; }

  // What follows needs the mutex.

  /** Memory for passes of `rows` rows, logits of `logit_rows`, and drafts of `draft_rows` from `medusa_heads` heads: a pass may still fail for
      want of an operation's scratch memory, but not of what is large. */
  Status reserve(int64_t rows, int64_t logit_rows, int64_t draft_rows, int64_t medusa_heads);
  /** The same for positions up to `count`: they keep their angles for as long as the model is open. */
  Status reserve_positions(int64_t count);
  Status embed(const int32_t* ids, int64_t tokens, float* x);
  /** Prepares the angles of the next forward_layer calls. */
  Status set_positions(const int32_t* positions, int64_t tokens);
  /** f32 [T, hidden_stride]: room for the residual stream of as many rows as set_positions was told of. */
  float* residual() { return residual_; }
  /**
   * One layer over x, f32 [T, hidden_stride], in place. K and V of all rows are stored behind the segments' committed rows, for which there
   * must be room; the counts do not change. Attention and feed-forward run for the last `needed` rows only: of what comes after the last
   * layer a prompt needs one row.
   */
  Status forward_layer(int64_t layer, const RowSegment* segments, int64_t segment_count, int64_t tokens, int64_t needed, float* x);
  /** f32 [T, Hq, D'] rotated queries of the last forward_layer call. */
  const float* queries() const { return q_; }
  int64_t query_stride() const { return shape_.query_heads * round_up(shape_.head_dim, kTileDepth); }
  /** Final norm: what lm_head and the Medusa heads read. `out` as x; may be x. */
  Status final_norm(const float* x, int64_t rows, float* out);
  /** f32 [rows, V] of normalised rows; valid until the next call. */
  Status logits(const float* hidden, int64_t rows, const float** out);
  /** i32 [M * S, K] vocabulary ids, head-major, of normalised rows. */
  Status drafts(const float* hidden, int64_t rows, int64_t medusa_heads, int64_t k, int32_t* ids);
  Context& context() { return *context_; }

 private:
  Model() = default;
  Status reserve_workspace(int64_t rows);
  Status reserve_logits(int64_t rows);
  Status reserve_drafts(int64_t rows, int64_t medusa_heads);
  void fill_angles(int64_t end);

  ModelShape shape_;
  Weights weights_;
  const Backend* backend_ = nullptr;
  std::unique_ptr<Context> context_;
  std::mutex mutex_;

  // Rows of the current pass. Padding columns are zero from the allocation on and never written.
  AlignedBuffer workspace_;
  int64_t workspace_rows_ = 0;
  float *residual_ = nullptr, *normed_ = nullptr, *qkv_ = nullptr, *q_ = nullptr, *k_ = nullptr, *attended_ = nullptr, *gate_up_ = nullptr, *gated_ = nullptr,
        *cos_ = nullptr, *sin_ = nullptr;
  /** f32 [positions, D/2]: a sine takes longer than most of what a row goes through, and every layer of a prompt would ask for it again. */
  AlignedBuffer cos_table_, sin_table_;
  /** Of which these are filled in. */
  int64_t angle_positions_ = 0;
  AlignedBuffer logits_, draft_logits_, draft_workspace_;
};

}  // namespace gorgon

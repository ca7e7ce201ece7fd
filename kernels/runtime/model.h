// Model: weights, a backend, and the forward pass over a list of rows that may belong to several sessions.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "ops/pass_item.h"
#include "runtime/kv_cache.h"
#include "runtime/weights.h"

namespace gorgon {

/** Neighbouring rows of a pass that belong to one session; arrays are the process's own. */
struct RowSegment {
  const KvCache* cache;
  int64_t tokens;
  /** Committed rows of the cache in the layers that the pass goes through. */
  int64_t rows;
  /** Of the first row (the root, when they are a tree). */
  int64_t position;
  const int32_t* ids;
  /** Null: the rows follow each other in the text. Otherwise a tree: see tree_attention.h. */
  const int32_t* depths;
  const int32_t* paths;
  int64_t path_stride;
  /** Keys per partial state of attention (pass_item.h). */
  int64_t split_rows;
};

class Model {
 public:
  /** Loads everything; long. */
  static Status open(const ModelSpec& spec, std::shared_ptr<Model>* out);

  const ModelShape& shape() const { return shape_; }
  const Weights& weights() const { return weights_; }
  const Backend& backend() const { return *backend_; }
  int threads() const { return context_->threads(); }
  /** Of CUDA: its number. */
  int device() const { return device_; }
  Memory& memory() const { return context_->memory(); }
  KvCache make_cache() const;
  /** Floats from one hidden row to the next; the padding holds zeros. */
  int64_t hidden_stride() const { return round_up(shape_.hidden, kTileDepth); }
  int64_t hidden_bytes(int64_t rows) const { return rows * hidden_stride() * static_cast<int64_t>(sizeof(float)); }
  /** Rows of a prompt that go through a layer together. */
  int64_t prompt_rows() const { return backend_->layout.prompt_rows; }

  /** Ids a Medusa head can draft. */
  int64_t draft_vocab() const;

  /** Held by whoever runs a pass: the workspace and the threads serve one call at a time. */
  std::mutex& mutex() { return mutex_; }

  // What follows needs the mutex. Pointers are to the backend's memory unless said otherwise.

  /** Memory for passes of `rows` rows, logits of `logit_rows`, and drafts of `draft_rows` from `medusa_heads` heads: a pass may still fail for
      want of an operation's scratch memory, but not of what is large. */
  Status reserve(int64_t rows, int64_t logit_rows, int64_t draft_rows, int64_t medusa_heads);
  /** The same for positions up to `count`: they keep their angles for as long as the model is open. */
  Status reserve_positions(int64_t count);

  /** Tells the next calls which rows there are: positions, ids and trees go to the backend. At most as many as were reserved. */
  Status begin_pass(const RowSegment* segments, int64_t count);
  /** Hidden rows of the pass's ids, f32 [T, hidden_stride]. */
  Status embed(float* x);
  /** f32 [T, hidden_stride]: room for the residual stream of as many rows as were reserved. */
  float* residual() { return residual_; }
  /**
   * One layer over x, f32 [T, hidden_stride], in place. K and V of all rows are stored behind the segments' committed rows, for which there
   * must be room; the counts do not change. Attention and feed-forward run for the last `needed` rows only: of what comes after the last
   * layer a prompt needs one row.
   */
  Status forward_layer(int64_t layer, int64_t needed, float* x);
  /** The pass's ids through all layers, into residual(); then, of up to reserved logit rows, the logits as `logits` has them (else null). */
  Status decode(const float** logits);
  /** Query rows of the last forward_layer call. */
  const std::byte* queries() const { return q_; }
  int64_t query_row_bytes() const { return query_stride() * backend_->layout.query_element_bytes(weights_.dtype); }
  /** In elements. */
  int64_t query_stride() const { return shape_.query_heads * backend_->layout.query_width(shape_.head_dim); }
  /** Rows after the final norm, f32 [rows, hidden_stride], as Medusa heads take them, of hidden rows as the last layer leaves them. */
  Status final_rows(const float* x, int64_t rows, float* out);
  /** f32 [rows, V] of hidden rows as the last layer leaves them; valid until the next call. */
  Status logits(const float* x, int64_t rows, const float** out);
  /** Room for the hidden rows that `drafts` starts from. */
  float* draft_rows() { return draft_rows_.as<float>(); }
  /** i32 [M * S, K] vocabulary ids, head-major, in the process's memory, after the first `rows` of draft_rows(). Waits. */
  Status drafts(int64_t rows, int64_t medusa_heads, int64_t k, int32_t* ids);
  /** The likeliest token of each row of logits, ties to the lower id, in the process's memory. Waits. */
  Status likeliest(const float* logits, int64_t rows, int32_t* ids);
  Context& context() { return *context_; }

 private:
  Model() = default;
  Status reserve_workspace(int64_t rows);
  Status reserve_logits(int64_t rows);
  Status reserve_drafts(int64_t rows, int64_t medusa_heads);
  Status fill_angles(int64_t end);
  Status norm(const float* x, int64_t rows, const Buffer& weight, bool operand, void* out);
  Status run_drafts(int64_t rows, int64_t medusa_heads, int64_t k);
  /** What a recording of the pass depends on, besides memory that stays where it is. */
  uint64_t pass_key(int64_t logit_rows) const;

  ModelShape shape_;
  const Backend* backend_ = nullptr;
  /** Before all that lives in its memory. */
  std::unique_ptr<Context> context_;
  int device_ = 0;
  Weights weights_;
  std::mutex mutex_;

  // Rows of the current pass. Padding columns are zero from the allocation on and never written.
  Buffer workspace_;
  int64_t workspace_rows_ = 0;
  float *residual_ = nullptr, *qkv_ = nullptr, *gate_up_ = nullptr, *turned_ = nullptr;
  std::byte *normed_ = nullptr, *q_ = nullptr, *attended_ = nullptr, *gated_ = nullptr;
  /** f32 [positions, D/2], and what they are made of. */
  Buffer cos_table_, sin_table_, frequencies_;
  /** Of which these are filled in. */
  int64_t angle_positions_ = 0;
  Buffer logits_, draft_rows_, draft_hidden_, draft_logits_, draft_workspace_, ids_;

  /** The current pass: items, positions, ids, depths and paths, first here, then in the backend's memory. */
  std::vector<std::byte> pass_staging_;
  Buffer pass_;
  struct Pass {
    const PassItem* items = nullptr;
    const int32_t* positions = nullptr;
    const int32_t* ids = nullptr;
    int64_t item_count = 0;
    int64_t tokens = 0;
    int64_t most_rows = 0;
    int64_t least_split_rows = 0;
    /** The one segment of a prompt; without a cache when they are trees. */
    RowSegment prompt{};
  } now_;
};

}  // namespace gorgon

// The forward pass, in the order the data moves.
#include "runtime/model.h"

#include <algorithm>
#include <cmath>

#include "ops/causal_attention.h"
#include "ops/embed.h"
#include "ops/medusa_heads.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/silu_mul.h"
#include "ops/top_k.h"
#include "ops/tree_attention.h"

namespace gorgon {

namespace {

/** Positions whose angles there is room for at first. */
constexpr int64_t kLeastPositions = 1024;

Status check_shape(const ModelShape& shape) {
  const bool sane = shape.layers > 0 && shape.hidden > 0 && shape.ffn > 0 && shape.vocab > 0 && shape.kv_heads > 0 && shape.query_heads > 0 &&
                    shape.query_heads % shape.kv_heads == 0 && shape.head_dim > 0 && shape.head_dim % 2 == 0;
  if (!sane) return {StatusCode::kShape, "the model's shape is not one a forward pass can run"};
  if (shape.head_dim > kMaxHeadDim) {
    return {StatusCode::kShape, "heads are " + std::to_string(shape.head_dim) + " wide; at most " + std::to_string(kMaxHeadDim) + " is supported"};
  }
  if (static_cast<int64_t>(shape.inverse_frequencies.size()) != shape.head_dim / 2 ||
      static_cast<int64_t>(shape.sliding_windows.size()) != shape.layers) {
    return {StatusCode::kShape, "inverseFrequencies must have headDim / 2 entries and slidingWindows one per layer"};
  }
  for (const int32_t window : shape.sliding_windows) {
    if (window < 0) return {StatusCode::kShape, "a sliding window is " + std::to_string(window) + " positions wide; 0 sees everything"};
  }
  return {};
}

}  // namespace

Status Model::open(const ModelSpec& spec, std::shared_ptr<Model>* out) {
  GORGON_TRY(check_shape(spec.shape));
  std::shared_ptr<Model> model(new Model);
  GORGON_TRY(select_backend(spec.backend, spec.isa, &model->backend_));
  model->context_ = model->backend_->make_context(spec.threads);
  model->shape_ = spec.shape;
  ThreadPool loading(model->context_->threads());
  GORGON_TRY(load_weights(spec, loading, &model->weights_));
  *out = std::move(model);
  return {};
}

Status Model::reserve(int64_t rows, int64_t logit_rows, int64_t draft_rows, int64_t medusa_heads) {
  GORGON_TRY(reserve_workspace(rows));
  GORGON_TRY(reserve_logits(logit_rows));
  return medusa_heads > 0 ? reserve_drafts(draft_rows, medusa_heads) : Status();
}

Status Model::reserve_workspace(int64_t rows) {
  if (rows <= workspace_rows_) return {};
  const int64_t q_width = shape_.query_heads * shape_.head_dim, kv_width = shape_.kv_heads * shape_.head_dim;
  const int64_t widths[] = {hidden_stride(),
                            hidden_stride(),
                            q_width + 2 * kv_width,
                            query_stride(),
                            kv_width,
                            round_up(q_width, kTileDepth),
                            2 * shape_.ffn,
                            round_up(shape_.ffn, kTileDepth),
                            shape_.head_dim / 2,
                            shape_.head_dim / 2};
  float** const parts[] = {&residual_, &normed_, &qkv_, &q_, &k_, &attended_, &gate_up_, &gated_, &cos_, &sin_};
  int64_t floats = 0;
  for (const int64_t width : widths) floats += round_up(rows * width, kTileColumns);
  GORGON_TRY(workspace_.allocate(floats * static_cast<int64_t>(sizeof(float)), "activations"));
  float* next = workspace_.as<float>();
  for (size_t i = 0; i < std::size(widths); ++i) {
    *parts[i] = next;
    next += round_up(rows * widths[i], kTileColumns);
  }
  workspace_rows_ = rows;
  return {};
}

Status Model::embed(const int32_t* ids, int64_t tokens, float* x) {
  return backend_->embed({ids, tokens, weights_.embed, weights_.embed_dtype, shape_.hidden, x, hidden_stride()}, *context_);
}

Status Model::reserve_positions(int64_t count) {
  const int64_t row_bytes = shape_.head_dim / 2 * static_cast<int64_t>(sizeof(float)), rows = cos_table_.bytes() / row_bytes;
  if (count <= std::min(rows, sin_table_.bytes() / row_bytes)) return {};
  const int64_t room = std::max(count, std::min(std::max(kLeastPositions, 2 * rows), shape_.max_positions));
  GORGON_TRY(cos_table_.resize(room * row_bytes, "rotary angles"));
  return sin_table_.resize(room * row_bytes, "rotary angles");
}

void Model::fill_angles(int64_t end) {
  const int64_t half = shape_.head_dim / 2;
  for (; angle_positions_ < end; ++angle_positions_) {
    float* cos = cos_table_.as<float>() + angle_positions_ * half;
    float* sin = sin_table_.as<float>() + angle_positions_ * half;
    for (int64_t i = 0; i < half; ++i) {
      // The angle is an f32 product, as in the implementations the checkpoints were trained with; its sine and cosine are exact to f32.
      const float angle = static_cast<float>(angle_positions_) * shape_.inverse_frequencies[i];
      cos[i] = static_cast<float>(std::cos(static_cast<double>(angle))) * shape_.rope_scale;
      sin[i] = static_cast<float>(std::sin(static_cast<double>(angle))) * shape_.rope_scale;
    }
  }
}

Status Model::set_positions(const int32_t* positions, int64_t tokens) {
  GORGON_TRY(reserve_workspace(tokens));
  const int64_t end = *std::max_element(positions, positions + tokens) + int64_t{1}, half = shape_.head_dim / 2;
  GORGON_TRY(reserve_positions(end));
  fill_angles(end);
  for (int64_t t = 0; t < tokens; ++t) {
    std::memcpy(cos_ + t * half, cos_table_.as<float>() + positions[t] * half, half * sizeof(float));
    std::memcpy(sin_ + t * half, sin_table_.as<float>() + positions[t] * half, half * sizeof(float));
  }
  return {};
}

Status Model::forward_layer(int64_t index, const RowSegment* segments, int64_t segment_count, int64_t tokens, int64_t needed, float* x) {
  const LayerWeights& layer = weights_.layers[index];
  const Backend& run = *backend_;
  const bool as_bf16 = rounds_to_bf16();
  const int64_t stride = hidden_stride(), head_dim = shape_.head_dim;
  const int64_t q_width = shape_.query_heads * head_dim, kv_width = shape_.kv_heads * head_dim, qkv_width = q_width + 2 * kv_width;
  const int64_t window = shape_.sliding_windows[index];

  GORGON_TRY(run.rms_norm({x, stride, tokens, shape_.hidden, layer.attention_norm.data(), shape_.rms_eps, as_bf16, normed_, stride}, *context_));
  GORGON_TRY(run.linear({normed_, stride, tokens, layer.qkv.matrix, layer.qkv.bias_or_null(), qkv_, qkv_width, false}, *context_));
  if (!layer.q_norm.empty()) {
    for (int64_t head = 0; head < shape_.query_heads + shape_.kv_heads; ++head) {
      float* rows = qkv_ + head * head_dim;  // k stands behind q
      const float* weight = head < shape_.query_heads ? layer.q_norm.data() : layer.k_norm.data();
      GORGON_TRY(run.rms_norm({rows, qkv_width, tokens, head_dim, weight, shape_.rms_eps, false, rows, qkv_width}, *context_));
    }
  }
  GORGON_TRY(run.rope({qkv_, qkv_width, tokens, shape_.query_heads, head_dim, cos_, sin_, as_bf16, q_, query_stride(), round_up(head_dim, kTileDepth)},
                      *context_));
  GORGON_TRY(run.rope({qkv_ + q_width, qkv_width, tokens, shape_.kv_heads, head_dim, cos_, sin_, false, k_, kv_width, head_dim}, *context_));
  int64_t row = 0;
  for (int64_t s = 0; s < segment_count; ++s) {
    const RowSegment& segment = segments[s];
    const float* v = qkv_ + row * qkv_width + q_width + kv_width;
    GORGON_TRY(run.kv_append({k_ + row * kv_width, kv_width, v, qkv_width, segment.tokens, segment.cache->heads(index), shape_.kv_heads, head_dim,
                              weights_.dtype, segment.cache->rows(index), segment.position, segment.depths},
                             *context_));
    row += segment.tokens;
  }
  if (needed == 0) return {};

  const int64_t out_stride = round_up(q_width, kTileDepth);
  std::vector<TreeAttentionItem> trees;
  row = 0;
  for (int64_t s = 0; s < segment_count; ++s) {
    const RowSegment& segment = segments[s];
    const float* q = q_ + row * query_stride();
    float* out = attended_ + row * out_stride;
    const int64_t rows = segment.cache->rows(index);
    if (segment.depths != nullptr) {
      trees.push_back({q, segment.cache->const_heads(index), segment.tokens, rows, segment.depths, segment.paths, segment.path_stride,
                       segment.position, out});
    } else {
      const int64_t skip = needed < segment.tokens ? segment.tokens - needed : 0;  // a prompt's rows are a pass of their own
      GORGON_TRY(run.causal_attention({q + skip * query_stride(), segment.cache->const_heads(index), weights_.dtype, segment.tokens - skip, rows + skip,
                                       shape_.query_heads, shape_.kv_heads, head_dim, segment.position + skip, window,
                                       out + skip * out_stride, out_stride},
                                      *context_));
    }
    row += segment.tokens;
  }
  if (!trees.empty()) {
    GORGON_TRY(run.tree_attention({trees.data(), static_cast<int64_t>(trees.size()), weights_.dtype, shape_.query_heads, shape_.kv_heads, head_dim,
                                   window, out_stride},
                                  *context_));
  }

  const int64_t first = tokens - needed;
  x += first * stride;
  GORGON_TRY(run.linear({attended_ + first * out_stride, out_stride, needed, layer.o.matrix, layer.o.bias_or_null(), x, stride, true}, *context_));
  GORGON_TRY(run.rms_norm({x, stride, needed, shape_.hidden, layer.ffn_norm.data(), shape_.rms_eps, as_bf16, normed_, stride}, *context_));
  GORGON_TRY(run.linear({normed_, stride, needed, layer.gate_up.matrix, layer.gate_up.bias_or_null(), gate_up_, 2 * shape_.ffn, false}, *context_));
  const int64_t gated_stride = round_up(shape_.ffn, kTileDepth);
  GORGON_TRY(run.silu_mul({gate_up_, 2 * shape_.ffn, needed, shape_.ffn, as_bf16, gated_, gated_stride}, *context_));
  return run.linear({gated_, gated_stride, needed, layer.down.matrix, layer.down.bias_or_null(), x, stride, true}, *context_);
}

Status Model::final_norm(const float* x, int64_t rows, float* out) {
  return backend_->rms_norm({x, hidden_stride(), rows, shape_.hidden, weights_.final_norm.data(), shape_.rms_eps, rounds_to_bf16(), out, hidden_stride()},
                            *context_);
}

Status Model::reserve_logits(int64_t rows) {
  const int64_t bytes = rows * shape_.vocab * static_cast<int64_t>(sizeof(float));
  return logits_.bytes() < bytes ? logits_.allocate(bytes, "logits") : Status();
}

Status Model::logits(const float* hidden, int64_t rows, const float** out) {
  GORGON_TRY(reserve_logits(rows));
  *out = logits_.as<float>();
  return backend_->linear({hidden, hidden_stride(), rows, weights_.lm_head.matrix, nullptr, logits_.as<float>(), shape_.vocab, false}, *context_);
}

int64_t Model::draft_vocab() const {
  return weights_.token_map.empty() ? shape_.vocab : static_cast<int64_t>(weights_.token_map.size());
}

Status Model::reserve_drafts(int64_t rows, int64_t medusa_heads) {
  const int64_t floats = static_cast<int64_t>(sizeof(float));
  const int64_t logits_bytes = medusa_heads * rows * draft_vocab() * floats, workspace_bytes = (2 * medusa_heads + 1) * rows * hidden_stride() * floats;
  if (draft_logits_.bytes() < logits_bytes) GORGON_TRY(draft_logits_.allocate(logits_bytes, "draft logits"));
  if (draft_workspace_.bytes() < workspace_bytes) GORGON_TRY(draft_workspace_.allocate(workspace_bytes, "activations"));
  return {};
}

Status Model::drafts(const float* hidden, int64_t rows, int64_t medusa_heads, int64_t k, int32_t* ids) {
  std::vector<std::vector<PackedMatrix>> blocks(medusa_heads);
  std::vector<std::vector<const float*>> biases(medusa_heads);
  std::vector<MedusaHeadWeights> heads(medusa_heads);
  bool shared = true;
  for (int64_t h = 0; h < medusa_heads; ++h) {
    const MedusaHead& head = weights_.heads[h];
    for (const PackedWeight& block : head.blocks) {
      blocks[h].push_back(block.matrix);
      biases[h].push_back(block.bias_or_null());
    }
    const bool own = head.projection.matrix.tiles != nullptr;
    heads[h] = {blocks[h].data(), biases[h].data(), own ? head.projection.matrix : weights_.lm_head.matrix};
    shared = shared && heads[h].projection.tiles == heads[0].projection.tiles;
  }
  const int64_t columns = draft_vocab();
  GORGON_TRY(reserve_drafts(rows, medusa_heads));
  GORGON_TRY(backend_->medusa_heads({hidden, hidden_stride(), rows, shape_.hidden, heads.data(), medusa_heads,
                                     static_cast<int64_t>(blocks[0].size()), shared, draft_workspace_.as<float>(), draft_logits_.as<float>(), columns},
                                    *context_));
  GORGON_TRY(backend_->top_k({draft_logits_.as<float>(), columns, medusa_heads * rows, columns, static_cast<int32_t>(k), ids}, *context_));
  if (!weights_.token_map.empty()) {
    for (int64_t i = 0; i < medusa_heads * rows * k; ++i) ids[i] = weights_.token_map[ids[i]];
  }
  return {};
}

}  // namespace gorgon

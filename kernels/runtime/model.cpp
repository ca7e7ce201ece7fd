// The forward pass, in the order the data moves.
#include "runtime/model.h"

#include <algorithm>
#include <cmath>

#include "ops/causal_attention.h"
#include "ops/embed.h"
#include "ops/gated_linear.h"
#include "ops/medusa_heads.h"
#include "ops/rms_norm.h"
#include "ops/rope_angles.h"
#include "ops/rope_append.h"
#include "ops/top_k.h"
#include "ops/tree_attention.h"

namespace gorgon {

namespace {

/** Positions whose angles there is room for at first. */
constexpr int64_t kLeastPositions = 1024;
/** Passes of more rows are prompts: without trees, whose paths take the most room. */
constexpr int64_t kMostTreeRows = 512;
/** A recording holds for caches of up to so many rows more than when it was made. */
constexpr int64_t kRecordedRows = 512;

constexpr int64_t kPieceBytes = 64;
constexpr int64_t kFloat = sizeof(float);

/** Pieces one behind the other, each aligned. */
class Pieces {
 public:
  /** Offset of a piece of `bytes`. */
  int64_t add(int64_t bytes) {
    const int64_t offset = bytes_;
    bytes_ += round_up(bytes, kPieceBytes);
    return offset;
  }
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_ = 0;
};

uint64_t mixed(uint64_t hash, int64_t value) {
  hash ^= static_cast<uint64_t>(value) + 0x9e3779b97f4a7c15ull + (hash << 6) + (hash >> 2);
  return hash * 0xff51afd7ed558ccdull;
}

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
  GORGON_TRY(select_backend(spec.backend, spec.isa, spec.context.device, &model->backend_));
  GORGON_TRY(model->backend_->make_context(spec.context, &model->context_));
  GORGON_TRY(model->context_->enter());
  model->shape_ = spec.shape;
  model->device_ = spec.context.device;
  Memory& memory = model->memory();
  for (Buffer* buffer : {&model->workspace_, &model->cos_table_, &model->sin_table_, &model->frequencies_, &model->logits_, &model->draft_rows_,
                         &model->draft_hidden_, &model->draft_logits_, &model->draft_workspace_, &model->ids_, &model->pass_}) {
    *buffer = Buffer(memory);
  }
  GORGON_TRY(load_weights(spec, *model->backend_, *model->context_, &model->weights_));
  const std::vector<float>& frequencies = spec.shape.inverse_frequencies;
  const int64_t bytes = static_cast<int64_t>(frequencies.size()) * kFloat;
  GORGON_TRY(model->frequencies_.allocate(bytes, "rotary angles"));
  GORGON_TRY(memory.upload(model->frequencies_.data(), frequencies.data(), bytes));
  GORGON_TRY(model->context_->finish());
  *out = std::move(model);
  return {};
}

KvCache Model::make_cache() const {
  return KvCache({shape_.layers, shape_.kv_heads, shape_.head_dim, weights_.dtype}, backend_->layout, memory());
}

// --- memory

Status Model::reserve(int64_t rows, int64_t logit_rows, int64_t draft_rows, int64_t medusa_heads) {
  GORGON_TRY(reserve_workspace(rows));
  GORGON_TRY(reserve_logits(logit_rows));
  return medusa_heads > 0 ? reserve_drafts(draft_rows, medusa_heads) : Status();
}

Status Model::reserve_workspace(int64_t rows) {
  if (rows <= workspace_rows_) return {};
  const Layout& layout = backend_->layout;
  const DType dtype = weights_.dtype;
  const int64_t q_width = shape_.query_heads * shape_.head_dim, kv_width = shape_.kv_heads * shape_.head_dim;
  const bool splits_gate = layout.needs_gate_workspace(weights_.packed_dtype, *context_);
  Pieces pieces;
  const int64_t residual = pieces.add(hidden_bytes(rows));
  const int64_t normed = pieces.add(layout.operand_bytes(dtype, rows, shape_.hidden));
  const int64_t qkv = pieces.add(rows * (q_width + 2 * kv_width) * kFloat);
  const int64_t q = pieces.add(rows * query_row_bytes());
  const int64_t turned = pieces.add(rows * (kv_width + shape_.head_dim) * kFloat);
  const int64_t attended = pieces.add(layout.operand_bytes(dtype, rows, q_width));
  const int64_t gate_up = pieces.add(splits_gate ? rows * 2 * shape_.ffn * kFloat : 0);
  const int64_t gated = pieces.add(layout.operand_bytes(dtype, rows, shape_.ffn));
  const int64_t tree_rows = std::min(rows, kMostTreeRows);
  const int64_t pass_bytes = tree_rows * (static_cast<int64_t>(sizeof(PassItem)) + (kMaxTreeNodes + 1) * static_cast<int64_t>(sizeof(int32_t))) +
                             2 * rows * static_cast<int64_t>(sizeof(int32_t)) + 4 * kPieceBytes;
  context_->forget_recordings();
  GORGON_TRY(pass_.allocate(pass_bytes, "activations"));
  workspace_rows_ = 0;
  workspace_.release();  // not both at once: a prompt's is large
  GORGON_TRY(workspace_.allocate(pieces.bytes(), "activations"));
  std::byte* base = workspace_.data();
  residual_ = reinterpret_cast<float*>(base + residual);
  normed_ = base + normed;
  qkv_ = reinterpret_cast<float*>(base + qkv);
  q_ = base + q;
  turned_ = reinterpret_cast<float*>(base + turned);
  attended_ = base + attended;
  gate_up_ = splits_gate ? reinterpret_cast<float*>(base + gate_up) : nullptr;
  gated_ = base + gated;
  workspace_rows_ = rows;
  return {};
}

Status Model::reserve_logits(int64_t rows) {
  const int64_t bytes = rows * shape_.vocab * kFloat;
  if (logits_.bytes() >= bytes) return {};
  context_->forget_recordings();
  GORGON_TRY(ids_.allocate(std::max<int64_t>(ids_.bytes(), rows * static_cast<int64_t>(sizeof(int32_t))), "token ids"));
  return logits_.allocate(bytes, "logits");
}

int64_t Model::draft_vocab() const {
  return weights_.token_map.empty() ? shape_.vocab : static_cast<int64_t>(weights_.token_map.size());
}

Status Model::reserve_drafts(int64_t rows, int64_t medusa_heads) {
  const int64_t logits_bytes = medusa_heads * rows * draft_vocab() * kFloat, workspace_bytes = hidden_bytes((2 * medusa_heads + 1) * rows);
  const int64_t ids_bytes = medusa_heads * rows * kMaxTopK * static_cast<int64_t>(sizeof(int32_t));
  const std::pair<Buffer*, int64_t> wanted[] = {{&draft_logits_, logits_bytes}, {&draft_workspace_, workspace_bytes}, {&draft_rows_, hidden_bytes(rows)},
                                                {&draft_hidden_, hidden_bytes(rows)}, {&ids_, ids_bytes}};
  for (const auto& [buffer, bytes] : wanted) {
    if (buffer->bytes() >= bytes) continue;
    context_->forget_recordings();
    GORGON_TRY(buffer->allocate(bytes, "drafts"));
  }
  return {};
}

Status Model::reserve_positions(int64_t count) {
  const int64_t row_bytes = shape_.head_dim / 2 * kFloat, rows = cos_table_.bytes() / row_bytes;
  if (count <= std::min(rows, sin_table_.bytes() / row_bytes)) return {};
  const int64_t room = std::max(count, std::min(std::max(kLeastPositions, 2 * rows), shape_.max_positions));
  Buffer cos(memory()), sin(memory());
  GORGON_TRY(cos.allocate(room * row_bytes, "rotary angles"));
  GORGON_TRY(sin.allocate(room * row_bytes, "rotary angles"));
  GORGON_TRY(memory().copy(cos.data(), cos_table_.data(), angle_positions_ * row_bytes));
  GORGON_TRY(memory().copy(sin.data(), sin_table_.data(), angle_positions_ * row_bytes));
  context_->forget_recordings();
  cos_table_ = std::move(cos);
  sin_table_ = std::move(sin);
  return {};
}

Status Model::fill_angles(int64_t end) {
  if (end <= angle_positions_) return {};
  GORGON_TRY(reserve_positions(end));
  // Not one by one: a step needs a position more than the one before.
  const int64_t room = cos_table_.bytes() / (shape_.head_dim / 2 * kFloat), last = std::min(room, round_up(end, kLeastPositions));
  GORGON_TRY(backend_->rope_angles({frequencies_.as<float>(), shape_.head_dim / 2, shape_.rope_scale, angle_positions_, last - angle_positions_,
                                    cos_table_.as<float>(), sin_table_.as<float>()},
                                   *context_));
  angle_positions_ = last;
  return {};
}

// --- the pass

Status Model::begin_pass(const RowSegment* segments, int64_t count) {
  int64_t tokens = 0, path_entries = 0, end = 0, most_rows = 0;
  int64_t least_split_rows = segments[0].split_rows;
  bool trees = false;
  for (int64_t s = 0; s < count; ++s) {
    const RowSegment& segment = segments[s];
    tokens += segment.tokens;
    path_entries += segment.depths != nullptr ? segment.tokens * (segment.path_stride + 1) : 0;
    trees = trees || segment.depths != nullptr;
    end = std::max(end, segment.position + (segment.depths != nullptr ? segment.path_stride : segment.tokens));
    most_rows = std::max(most_rows, segment.rows + segment.tokens);
    least_split_rows = std::min(least_split_rows, segment.split_rows);
  }
  GORGON_TRY(reserve_workspace(tokens));
  GORGON_TRY(fill_angles(end));

  // What a recording finds by its address comes first, at offsets that only depend on how many items and tokens there are.
  constexpr int64_t kInt = sizeof(int32_t);
  Pieces pieces;
  const int64_t items = pieces.add(count * static_cast<int64_t>(sizeof(PassItem)));
  const int64_t positions = pieces.add(tokens * kInt), ids = pieces.add(tokens * kInt), paths = pieces.add(path_entries * kInt);
  if (pass_.bytes() < pieces.bytes()) {
    context_->forget_recordings();
    GORGON_TRY(pass_.allocate(pieces.bytes(), "activations"));
  }
  pass_staging_.resize(pieces.bytes());
  auto* item = reinterpret_cast<PassItem*>(pass_staging_.data() + items);
  auto* position = reinterpret_cast<int32_t*>(pass_staging_.data() + positions);
  auto* id = reinterpret_cast<int32_t*>(pass_staging_.data() + ids);
  auto* path = reinterpret_cast<int32_t*>(pass_staging_.data() + paths);
  const auto there = [&](const int32_t* here) {
    return reinterpret_cast<const int32_t*>(pass_.data() + (reinterpret_cast<const std::byte*>(here) - pass_staging_.data()));
  };
  int64_t first = 0;
  for (int64_t s = 0; s < count; ++s) {
    const RowSegment& segment = segments[s];
    *item = {first, segment.tokens, segment.rows, segment.position, segment.cache->heads(), nullptr, nullptr, segment.path_stride, segment.split_rows};
    if (segment.depths != nullptr) {
      item->depths = there(path);
      path = std::copy_n(segment.depths, segment.tokens, path);
      item->paths = there(path);
      path = std::copy_n(segment.paths, segment.tokens * segment.path_stride, path);
    }
    for (int64_t t = 0; t < segment.tokens; ++t) {
      *position++ = static_cast<int32_t>(segment.position + (segment.depths != nullptr ? segment.depths[t] : t));
    }
    id = std::copy_n(segment.ids, segment.tokens, id);
    first += segment.tokens;
    ++item;
  }
  GORGON_TRY(memory().upload(pass_.data(), pass_staging_.data(), pieces.bytes()));
  now_.items = reinterpret_cast<const PassItem*>(pass_.data() + items);
  now_.positions = reinterpret_cast<const int32_t*>(pass_.data() + positions);
  now_.ids = reinterpret_cast<const int32_t*>(pass_.data() + ids);
  now_.item_count = count;
  now_.tokens = tokens;
  now_.most_rows = round_up(most_rows, kRecordedRows);
  now_.least_split_rows = least_split_rows;
  now_.prompt = trees ? RowSegment{} : segments[0];
  return {};
}

Status Model::embed(float* x) {
  return backend_->embed({now_.ids, now_.tokens, weights_.embed, weights_.embed_dtype, shape_.hidden, x, hidden_stride()}, *context_);
}

Status Model::norm(const float* x, int64_t rows, const Buffer& weight, bool operand, void* out) {
  const int64_t stride = operand ? backend_->layout.operand_stride(shape_.hidden) : hidden_stride();
  return backend_->rms_norm({x, hidden_stride(), rows, shape_.hidden, weight.as<float>(), shape_.rms_eps, weights_.dtype, operand, out, stride}, *context_);
}

Status Model::forward_layer(int64_t index, int64_t needed, float* x) {
  const LayerWeights& layer = weights_.layers[index];
  const Backend& run = *backend_;
  const Layout& layout = run.layout;
  const DType dtype = weights_.dtype;
  const int64_t tokens = now_.tokens, stride = hidden_stride(), head_dim = shape_.head_dim, window = shape_.sliding_windows[index];
  const int64_t q_width = shape_.query_heads * head_dim, qkv_width = q_width + 2 * shape_.kv_heads * head_dim;
  const int64_t hidden_operand = layout.operand_stride(shape_.hidden), q_operand = layout.operand_stride(q_width), ffn_operand = layout.operand_stride(shape_.ffn);
  const bool is_prompt = now_.prompt.cache != nullptr;

  GORGON_TRY(norm(x, tokens, layer.attention_norm, true, normed_));
  GORGON_TRY(run.linear({normed_, hidden_operand, tokens, layer.qkv.matrix, layer.qkv.bias_or_null(), qkv_, qkv_width, false, is_prompt}, *context_));
  GORGON_TRY(run.rope_append({qkv_, qkv_width, tokens, shape_.query_heads, shape_.kv_heads, head_dim, layer.q_norm.as<float>(), layer.k_norm.as<float>(),
                              shape_.rms_eps, cos_table_.as<float>(), sin_table_.as<float>(), now_.positions, dtype, q_, query_stride(), turned_, now_.items,
                              now_.item_count, index},
                             *context_));
  if (needed == 0) return {};

  if (is_prompt) {
    const RowSegment& prompt = now_.prompt;
    GORGON_TRY(run.causal_attention({q_, query_stride(), prompt.cache->heads(index), dtype, tokens, tokens - needed, prompt.rows, shape_.query_heads,
                                     shape_.kv_heads, head_dim, prompt.position, window, attended_, q_operand},
                                    *context_));
  } else {
    GORGON_TRY(run.tree_attention({q_, query_stride(), now_.items, now_.item_count, tokens, now_.most_rows, index, dtype, shape_.query_heads, shape_.kv_heads,
                                   head_dim, window, attended_, q_operand, now_.least_split_rows},
                                  *context_));
  }

  x += (tokens - needed) * stride;
  GORGON_TRY(run.linear({attended_, q_operand, needed, layer.o.matrix, layer.o.bias_or_null(), x, stride, true, is_prompt}, *context_));
  GORGON_TRY(norm(x, needed, layer.ffn_norm, true, normed_));
  GORGON_TRY(run.gated_linear({normed_, hidden_operand, needed, layer.gate_up.matrix, layer.gate_up.bias_or_null(), dtype, gate_up_, gated_, ffn_operand, is_prompt},
                              *context_));
  return run.linear({gated_, ffn_operand, needed, layer.down.matrix, layer.down.bias_or_null(), x, stride, true, is_prompt}, *context_);
}

Status Model::final_rows(const float* x, int64_t rows, float* out) { return norm(x, rows, weights_.final_norm, false, out); }

Status Model::logits(const float* x, int64_t rows, const float** out) {
  GORGON_TRY(reserve_logits(rows));
  GORGON_TRY(norm(x, rows, weights_.final_norm, true, normed_));
  *out = logits_.as<float>();
  return backend_->linear({normed_, backend_->layout.operand_stride(shape_.hidden), rows, weights_.lm_head.matrix, nullptr, logits_.as<float>(), shape_.vocab,
                           false, false},
                          *context_);
}

uint64_t Model::pass_key(int64_t logit_rows) const {
  uint64_t key = mixed(1, now_.item_count);
  key = mixed(key, now_.tokens);
  key = mixed(key, now_.most_rows);
  key = mixed(key, now_.least_split_rows);
  return mixed(key, logit_rows);
}

Status Model::decode(const float** out) {
  const int64_t room = logits_.bytes() / (shape_.vocab * kFloat), logit_rows = now_.tokens <= room ? now_.tokens : 0;
  *out = nullptr;
  GORGON_TRY(context_->recorded(pass_key(logit_rows), [&]() -> Status {
    GORGON_TRY(embed(residual_));
    for (int64_t layer = 0; layer < shape_.layers; ++layer) GORGON_TRY(forward_layer(layer, now_.tokens, residual_));
    const float* ignored;
    return logit_rows > 0 ? logits(residual_, logit_rows, &ignored) : Status();
  }));
  if (logit_rows > 0) *out = logits_.as<float>();
  return {};
}

// --- drafts

Status Model::run_drafts(int64_t rows, int64_t medusa_heads, int64_t k) {
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
  GORGON_TRY(final_rows(draft_rows_.as<float>(), rows, draft_hidden_.as<float>()));
  GORGON_TRY(backend_->medusa_heads({draft_hidden_.as<float>(), hidden_stride(), rows, shape_.hidden, heads.data(), medusa_heads,
                                     static_cast<int64_t>(blocks[0].size()), shared, weights_.dtype, draft_workspace_.as<float>(), draft_logits_.as<float>(),
                                     columns},
                                    *context_));
  return backend_->top_k({draft_logits_.as<float>(), columns, medusa_heads * rows, columns, static_cast<int32_t>(k), ids_.as<int32_t>()}, *context_);
}

Status Model::drafts(int64_t rows, int64_t medusa_heads, int64_t k, int32_t* ids) {
  GORGON_TRY(context_->recorded(mixed(mixed(mixed(2, rows), medusa_heads), k), [&] { return run_drafts(rows, medusa_heads, k); }));
  const int64_t count = medusa_heads * rows * k;
  GORGON_TRY(memory().download(ids, ids_.data(), count * static_cast<int64_t>(sizeof(int32_t))));
  if (!weights_.token_map.empty()) {
    for (int64_t i = 0; i < count; ++i) ids[i] = weights_.token_map[ids[i]];
  }
  return {};
}

Status Model::likeliest(const float* logits, int64_t rows, int32_t* ids) {
  GORGON_TRY(backend_->top_k({logits, shape_.vocab, rows, shape_.vocab, 1, ids_.as<int32_t>()}, *context_));
  return memory().download(ids, ids_.data(), rows * static_cast<int64_t>(sizeof(int32_t)));
}

}  // namespace gorgon

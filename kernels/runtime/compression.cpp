// The three policies: SnapKV lets the window's queries vote, H2O all queries, StreamingLLM nobody.
#include "runtime/compression.h"

#include <chrono>

#include "ops/attention_votes.h"
#include "ops/kv_gather.h"

namespace gorgon {

Status check_compression(const CompressionSpec& c) {
  const int64_t protect = c.policy == KvPolicy::kStreaming ? c.sinks : c.window;
  if (c.budget < 1 || protect < 0 || c.window < 0 || protect >= c.budget || c.pool_size < 1 || c.pool_size % 2 == 0) {
    return {StatusCode::kArgument, "compression: budget " + std::to_string(c.budget) + ", window " + std::to_string(c.window) + ", pool size " +
                                       std::to_string(c.pool_size) + " do not go together"};
  }
  if (c.policy != KvPolicy::kStreaming && c.window < 1) return {StatusCode::kArgument, "compression needs a window of at least one token"};
  return {};
}

Compression::Compression(Model& model, const CompressionSpec& spec, int64_t rows, int64_t tokens)
    : model_(model), spec_(spec), rows_(rows), tokens_(tokens), window_queries_(model.memory()), votes_(model.memory()), chosen_(model.memory()) {
  report_.rows_before = total_rows();
  report_.rows_kept = spec.budget;
}

Status Compression::begin_layer() {
  const ModelShape& shape = model_.shape();
  if (chosen_.bytes() == 0) GORGON_TRY(chosen_.allocate(shape.kv_heads * spec_.budget * static_cast<int64_t>(sizeof(int32_t)), "kept rows"));
  if (spec_.policy == KvPolicy::kStreaming) return {};
  const int64_t votes_bytes = shape.query_heads * total_rows() * static_cast<int64_t>(sizeof(float));
  if (votes_.bytes() == 0) {
    GORGON_TRY(votes_.allocate(votes_bytes, "attention votes"));
  } else {
    GORGON_TRY(model_.memory().fill(votes_.data(), 0, votes_bytes));
  }
  if (spec_.policy == KvPolicy::kSnapkv && window_queries_.bytes() == 0) {
    GORGON_TRY(window_queries_.allocate(voting_tokens() * model_.query_row_bytes(), "window queries"));
  }
  return {};
}

Status Compression::see_chunk(int64_t layer, const KvCache& cache, int64_t position, int64_t first, int64_t count) {
  if (spec_.policy == KvPolicy::kH2o) {
    return vote(layer, cache, model_.queries(), first, count, position, rows_ + first + count);
  }
  if (spec_.policy != KvPolicy::kSnapkv) return {};
  const int64_t window_first = tokens_ - voting_tokens();
  const int64_t from = first > window_first ? first : window_first;
  if (from >= first + count) return {};
  const int64_t row_bytes = model_.query_row_bytes();
  return model_.memory().copy(window_queries_.data() + (from - window_first) * row_bytes, model_.queries() + (from - first) * row_bytes,
                              (first + count - from) * row_bytes);
}

Status Compression::vote(int64_t layer, const KvCache& cache, const void* q, int64_t first, int64_t count, int64_t position, int64_t vote_rows) {
  const ModelShape& shape = model_.shape();
  return model_.backend().attention_votes(
      {q, model_.query_stride(), cache.heads(layer), model_.weights().dtype, count, rows_ + first, shape.query_heads, shape.kv_heads, shape.head_dim,
       position + first, shape.sliding_windows[layer], vote_rows, votes_.as<float>(), total_rows()},
      model_.context());
}

void Compression::choose_fixed(std::vector<int32_t>* chosen) const {
  const int64_t budget = spec_.budget, voted = spec_.policy == KvPolicy::kStreaming ? 0 : budget - spec_.window;
  for (int64_t at = 0; at < static_cast<int64_t>(chosen->size()); ++at) {
    const int64_t i = at % budget;
    if (i < voted) continue;
    const bool is_sink = spec_.policy == KvPolicy::kStreaming && i < spec_.sinks;
    (*chosen)[at] = static_cast<int32_t>(is_sink ? i : total_rows() - budget + i);
  }
}

Status Compression::report_positions(int64_t layer, const KvCache& cache) {
  const int64_t budget = spec_.budget;
  std::vector<int32_t> chosen(model_.shape().kv_heads * budget), positions(total_rows());
  GORGON_TRY(model_.memory().download(chosen.data(), chosen_.data(), chosen_.bytes()));
  for (int64_t h = 0; h < model_.shape().kv_heads; ++h) {
    GORGON_TRY(model_.memory().download(positions.data(), cache.positions(layer, h), static_cast<int64_t>(positions.size() * sizeof(int32_t))));
    for (int64_t i = 0; i < budget; ++i) report_.kept.push_back(positions[chosen[h * budget + i]]);
  }
  return {};
}

Status Compression::finish_layer(int64_t layer, KvCache& cache, int64_t position) {
  GORGON_TRY(model_.context().finish());  // so that the time is the compression's own
  const auto start = std::chrono::steady_clock::now();
  const ModelShape& shape = model_.shape();
  const int64_t total = total_rows(), budget = spec_.budget;
  std::vector<int32_t> chosen(shape.kv_heads * budget);
  choose_fixed(&chosen);
  GORGON_TRY(model_.memory().upload(chosen_.data(), chosen.data(), chosen_.bytes()));
  if (spec_.policy != KvPolicy::kStreaming) {
    const int64_t prefix = total - spec_.window;
    if (spec_.policy == KvPolicy::kSnapkv) {
      const int64_t first = tokens_ - voting_tokens();
      GORGON_TRY(vote(layer, cache, window_queries_.data(), first, voting_tokens(), position, prefix));
    }
    GORGON_TRY(model_.backend().snapkv_select({votes_.as<float>(), total, shape.query_heads, shape.kv_heads, prefix, spec_.pool, spec_.pool_size,
                                               spec_.group_reduce, budget - spec_.window, chosen_.as<int32_t>(), budget},
                                              model_.context()));
  }
  if (spec_.report_kept) GORGON_TRY(report_positions(layer, cache));
  GORGON_TRY(model_.backend().kv_gather(
      {cache.heads(layer), shape.kv_heads, shape.head_dim, model_.weights().dtype, 0, chosen_.as<int32_t>(), budget, budget}, model_.context()));
  cache.set_rows(layer, budget);
  // Without memory to move to, the rows stay where they are.
  const Status shrunk = cache.shrink(layer, kSpareRows);
  if (!shrunk.ok() && shrunk.code() != StatusCode::kOutOfMemory) return shrunk;
  GORGON_TRY(model_.context().finish());
  report_.bytes_before += cache.layer_bytes(total);
  report_.bytes_after += cache.layer_bytes(budget);
  report_.ms += std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  return {};
}

}  // namespace gorgon

// Growing and shrinking of a session's cache, in whole groups of rows.
#include "runtime/kv_cache.h"

#include <algorithm>
#include <numeric>

namespace gorgon {

namespace {

int64_t position_bytes(int64_t rows) { return rows * static_cast<int64_t>(sizeof(int32_t)); }

}  // namespace

KvCache::KvCache(const KvShape& shape, const Layout& layout, Memory& memory)
    : shape_(shape), layout_(&layout), memory_(&memory), views_(shape.layers * shape.kv_heads), heads_(memory) {
  layers_.resize(shape.layers);
  for (Layer& layer : layers_) layer.data = Buffer(memory);
}

int64_t KvCache::k_bytes(int64_t rows) const { return divide_up(rows, row_group()) * layout_->k_group_bytes(shape_.dtype, shape_.head_dim); }
int64_t KvCache::v_bytes(int64_t rows) const { return divide_up(rows, row_group()) * layout_->v_group_bytes(shape_.dtype, shape_.head_dim); }

Status KvCache::reserve(int64_t layer, int64_t rows, int64_t spare) {
  if (rows <= layers_[layer].capacity) return {};
  return resize(layer, round_up(rows + spare, row_group()));
}

Status KvCache::fill(int64_t layer, int64_t rows) {
  // The same byte twice, or four times, is a small number in every dtype; memory that was never written would be one page of zeros, read from L1.
  constexpr int kSmallNumber = 0x3c;
  std::vector<int32_t> positions(rows);
  std::iota(positions.begin(), positions.end(), 0);
  for (int64_t h = 0; h < shape_.kv_heads; ++h) {
    const KvHead& head = views_[layer * shape_.kv_heads + h];
    GORGON_TRY(memory_->fill(head.k, kSmallNumber, k_bytes(rows)));
    GORGON_TRY(memory_->fill(head.v, kSmallNumber, v_bytes(rows)));
    GORGON_TRY(memory_->upload(head.positions, positions.data(), position_bytes(rows)));
  }
  layers_[layer].rows = rows;
  return {};
}

Status KvCache::shrink(int64_t layer, int64_t spare) {
  const int64_t capacity = round_up(layers_[layer].rows + spare, row_group());
  if (capacity >= layers_[layer].capacity) return {};
  return resize(layer, capacity);
}

Status KvCache::copy_layer(const KvCache& from, int64_t layer, int64_t spare) {
  const int64_t rows = from.rows(layer);
  GORGON_TRY(reserve(layer, rows, spare));
  for (int64_t i = layer * shape_.kv_heads; i < (layer + 1) * shape_.kv_heads; ++i) {
    // Whole groups: what stands behind the last row is as an append would have left it.
    GORGON_TRY(memory_->copy(views_[i].k, from.views_[i].k, k_bytes(rows)));
    GORGON_TRY(memory_->copy(views_[i].v, from.views_[i].v, v_bytes(rows)));
    GORGON_TRY(memory_->copy(views_[i].positions, from.views_[i].positions, position_bytes(rows)));
  }
  set_rows(layer, rows);
  return {};
}

Status KvCache::resize(int64_t index, int64_t capacity) {
  Layer& layer = layers_[index];
  const int64_t heads_bytes = static_cast<int64_t>(views_.size() * sizeof(KvHead));
  if (heads_.bytes() == 0) GORGON_TRY(heads_.allocate(heads_bytes, "KV cache"));
  Buffer data(*memory_);
  const int64_t head_bytes = k_bytes(capacity) + v_bytes(capacity) + round_up(position_bytes(capacity), AlignedBuffer::kAlignment);
  GORGON_TRY(data.allocate(shape_.kv_heads * head_bytes, "KV cache"));
  const int64_t kept = std::min(capacity, layer.capacity);
  std::vector<KvHead> views(shape_.kv_heads);
  for (int64_t h = 0; h < shape_.kv_heads; ++h) {
    std::byte* k = data.data() + h * head_bytes;
    std::byte* v = k + k_bytes(capacity);
    views[h] = {k, v, reinterpret_cast<int32_t*>(v + v_bytes(capacity))};
    const KvHead& old = views_[index * shape_.kv_heads + h];
    GORGON_TRY(memory_->copy(views[h].k, old.k, k_bytes(kept)));
    GORGON_TRY(memory_->copy(views[h].v, old.v, v_bytes(kept)));
    GORGON_TRY(memory_->copy(views[h].positions, old.positions, position_bytes(kept)));
  }
  GORGON_TRY(memory_->upload(heads_.as<KvHead>() + index * shape_.kv_heads, views.data(), static_cast<int64_t>(views.size() * sizeof(KvHead))));
  std::copy(views.begin(), views.end(), views_.begin() + index * shape_.kv_heads);
  layer.data = std::move(data);
  layer.capacity = capacity;
  return {};
}

int64_t KvCache::layer_bytes(int64_t rows) const {
  const int64_t group_bytes = layout_->k_group_bytes(shape_.dtype, shape_.head_dim) + layout_->v_group_bytes(shape_.dtype, shape_.head_dim);
  return rows * shape_.kv_heads * (group_bytes / row_group());
}

}  // namespace gorgon

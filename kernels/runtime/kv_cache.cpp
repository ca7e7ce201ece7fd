// Growing and shrinking of a session's cache, in whole groups of rows.
#include "runtime/kv_cache.h"

#include <cstring>
#include <numeric>

namespace gorgon {

KvCache::KvCache(const KvShape& shape) : shape_(shape), layers_(shape.layers) {
  for (Layer& layer : layers_) {
    layer.heads.resize(shape.kv_heads);
    layer.views.resize(shape.kv_heads);
    layer.const_views.resize(shape.kv_heads);
  }
}

Status KvCache::reserve(int64_t layer, int64_t rows, int64_t spare) {
  if (rows <= layers_[layer].capacity) return {};
  return resize(layers_[layer], round_up(rows + spare, kRowGroup));
}

void KvCache::fill(int64_t layer, int64_t rows) {
  // The same byte twice, or four times, is a small number in every dtype; memory that was never written would be one page of zeros, read from L1.
  constexpr int kSmallNumber = 0x3c;
  const int64_t groups = rows / kRowGroup;
  for (const MutableKvHead& head : layers_[layer].views) {
    std::memset(head.k, kSmallNumber, groups * k_group_bytes(shape_.dtype, shape_.head_dim));
    std::memset(head.v, kSmallNumber, groups * v_group_bytes(shape_.dtype, shape_.head_dim));
    std::iota(head.positions, head.positions + rows, 0);
  }
  layers_[layer].rows = rows;
}

Status KvCache::shrink(int64_t layer, int64_t spare) {
  const int64_t capacity = round_up(layers_[layer].rows + spare, kRowGroup);
  if (capacity >= layers_[layer].capacity) return {};
  return resize(layers_[layer], capacity);
}

Status KvCache::copy_layer(const KvCache& from, int64_t layer, int64_t spare) {
  const int64_t rows = from.rows(layer), groups = divide_up(rows, kRowGroup);
  GORGON_TRY(reserve(layer, rows, spare));
  for (int64_t h = 0; h < shape_.kv_heads; ++h) {
    const Head& source = from.layers_[layer].heads[h];
    Head& target = layers_[layer].heads[h];
    // Whole groups: what stands behind the last row is as an append would have left it.
    std::memcpy(target.k.data(), source.k.data(), groups * k_group_bytes(shape_.dtype, shape_.head_dim));
    std::memcpy(target.v.data(), source.v.data(), groups * v_group_bytes(shape_.dtype, shape_.head_dim));
    std::memcpy(target.positions.data(), source.positions.data(), rows * sizeof(int32_t));
  }
  set_rows(layer, rows);
  return {};
}

Status KvCache::resize(Layer& layer, int64_t capacity) {
  const int64_t groups = capacity / kRowGroup;
  // Heads that were resized before a failure keep their larger buffers; the capacity, which counts, stays the smallest of them.
  if (capacity < layer.capacity) layer.capacity = capacity;
  for (int64_t h = 0; h < shape_.kv_heads; ++h) {
    Head& head = layer.heads[h];
    Status status = head.k.resize(groups * k_group_bytes(shape_.dtype, shape_.head_dim), "KV cache");
    if (status.ok()) status = head.v.resize(groups * v_group_bytes(shape_.dtype, shape_.head_dim), "KV cache");
    if (status.ok()) status = head.positions.resize(capacity * static_cast<int64_t>(sizeof(int32_t)), "KV cache");
    layer.views[h] = {head.k.data(), head.v.data(), head.positions.as<int32_t>()};
    layer.const_views[h] = {head.k.data(), head.v.data(), head.positions.as<int32_t>()};
    GORGON_TRY(status);
  }
  layer.capacity = capacity;
  return {};
}

int64_t KvCache::layer_bytes(int64_t rows) const {
  const int64_t elements = round_up(shape_.head_dim, kTileDepth) + round_up(shape_.head_dim, kTileColumns);
  return rows * shape_.kv_heads * elements * dtype_size(shape_.dtype);
}

}  // namespace gorgon

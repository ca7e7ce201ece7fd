// KvCache: the K and V rows of one session, per layer and KV head, in a backend's memory and layout. Row counts and positions are kept apart: a
// row's index changes when the cache is compressed, its position never does.
#pragma once

#include <vector>

#include "backend/backend.h"
#include "ops/kv_append.h"

namespace gorgon {

/** Rows a cache may grow by before it has to be moved again. */
constexpr int64_t kSpareRows = 256;

struct KvShape {
  int64_t layers;
  int64_t kv_heads;
  int64_t head_dim;
  DType dtype;
};

class KvCache {
 public:
  KvCache(const KvShape& shape, const Layout& layout, Memory& memory);

  /** Committed rows of a layer. */
  int64_t rows(int64_t layer) const { return layers_[layer].rows; }
  void set_rows(int64_t layer, int64_t rows) { layers_[layer].rows = rows; }

  /** Room for `rows` rows, and `spare` more if it has to grow at all; keeps what is there. Unchanged on failure. */
  Status reserve(int64_t layer, int64_t rows, int64_t spare);
  /** `rows` rows of arbitrary finite numbers, at positions from 0 on; a whole number of groups, for which there is room. */
  Status fill(int64_t layer, int64_t rows);
  /** Gives memory back beyond the committed rows and `spare` more. */
  Status shrink(int64_t layer, int64_t spare);

  /** A layer of another cache of this shape instead of one's own, with room for its rows and `spare` more. */
  Status copy_layer(const KvCache& from, int64_t layer, int64_t spare);

  /** [L, Hkv] in the backend's memory, where it stays; a layer's are valid until its next reserve or shrink. Null before the first reserve. */
  const KvHead* heads() const { return heads_.as<KvHead>(); }
  const KvHead* heads(int64_t layer) const { return heads() + layer * shape_.kv_heads; }
  /** i32 [rows] of one head, in the backend's memory. */
  const int32_t* positions(int64_t layer, int64_t kv_head) const { return views_[layer * shape_.kv_heads + kv_head].positions; }

  int64_t row_group() const { return layout_->kv_row_group; }
  /** Bytes of `rows` rows of one layer, over its KV heads. */
  int64_t layer_bytes(int64_t rows) const;

 private:
  struct Layer {
    /** Per KV head: K, V, positions. */
    Buffer data;
    int64_t rows = 0;
    int64_t capacity = 0;
  };

  Status resize(int64_t layer, int64_t capacity);
  int64_t k_bytes(int64_t rows) const;
  int64_t v_bytes(int64_t rows) const;

  KvShape shape_;
  const Layout* layout_;
  Memory* memory_;
  std::vector<Layer> layers_;
  std::vector<KvHead> views_;
  /** views_ where operations read them. */
  Buffer heads_;
};

}  // namespace gorgon

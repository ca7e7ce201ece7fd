// KvCache: the K and V rows of one session, per layer and KV head. Row counts and positions are kept apart: a row's index changes when the
// cache is compressed, its position never does.
#pragma once

#include <vector>

#include "common/aligned_buffer.h"
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
  explicit KvCache(const KvShape& shape);

  /** Committed rows of a layer. */
  int64_t rows(int64_t layer) const { return layers_[layer].rows; }
  void set_rows(int64_t layer, int64_t rows) { layers_[layer].rows = rows; }

  /** Room for `rows` rows, and `spare` more if it has to grow at all; keeps what is there. Unchanged on failure. */
  Status reserve(int64_t layer, int64_t rows, int64_t spare);
  /** `rows` rows of arbitrary finite numbers, at positions from 0 on; a whole number of groups (kv_layout.h), for which there is room. */
  void fill(int64_t layer, int64_t rows);
  /** Gives memory back beyond the committed rows and `spare` more. */
  Status shrink(int64_t layer, int64_t spare);

  /** A layer of another cache of this shape instead of one's own, with room for its rows and `spare` more. */
  Status copy_layer(const KvCache& from, int64_t layer, int64_t spare);

  /** [Hkv]; valid until the next reserve or shrink of the layer. */
  const MutableKvHead* heads(int64_t layer) const { return layers_[layer].views.data(); }
  const KvHead* const_heads(int64_t layer) const { return layers_[layer].const_views.data(); }

  /** Bytes of `rows` rows of one layer, over its KV heads. */
  int64_t layer_bytes(int64_t rows) const;

 private:
  struct Head {
    AlignedBuffer k, v, positions;
  };
  struct Layer {
    std::vector<Head> heads;
    std::vector<MutableKvHead> views;
    std::vector<KvHead> const_views;
    int64_t rows = 0;
    int64_t capacity = 0;
  };

  Status resize(Layer& layer, int64_t capacity);

  KvShape shape_;
  std::vector<Layer> layers_;
};

}  // namespace gorgon

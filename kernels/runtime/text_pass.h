// A text through the model, layer after layer, each in chunks of rows: as a session's prefill, all of it in one call.
#pragma once

#include <algorithm>
#include <vector>

#include "runtime/kv_cache.h"
#include "runtime/model.h"

namespace gorgon {

/**
 * Leaves the text's last hidden rows in `hidden` and its K and V in `cache`, which is empty. Calls begin_layer(layer), then for each chunk
 * after_chunk(layer, first, rows), while model.queries() are the chunk's, then after_layer(layer); the first status that is not ok ends it.
 * Needs the model's mutex, and Model::reserve for `chunk` rows where memory may be short.
 */
template <class BeginLayer, class AfterChunk, class AfterLayer>
Status run_text(Model& model, const int32_t* tokens, int64_t count, int64_t chunk, AlignedBuffer* hidden, KvCache* cache,
                const BeginLayer& begin_layer, const AfterChunk& after_chunk, const AfterLayer& after_layer) {
  const int64_t stride = model.hidden_stride();
  GORGON_TRY(hidden->allocate(count * stride * static_cast<int64_t>(sizeof(float)), "hidden rows"));
  float* x = hidden->as<float>();
  std::vector<int32_t> positions(count);
  for (int64_t i = 0; i < count; ++i) positions[i] = static_cast<int32_t>(i);
  GORGON_TRY(model.embed(tokens, count, x));
  for (int64_t layer = 0; layer < model.shape().layers; ++layer) {
    GORGON_TRY(cache->reserve(layer, count, 0));
    GORGON_TRY(begin_layer(layer));
    for (int64_t first = 0; first < count; first += chunk) {
      const int64_t rows = std::min(chunk, count - first);
      GORGON_TRY(model.set_positions(positions.data() + first, rows));
      const RowSegment segment{cache, rows, first, nullptr, nullptr, 0};
      GORGON_TRY(model.forward_layer(layer, &segment, 1, rows, rows, x + first * stride));
      cache->set_rows(layer, first + rows);
      GORGON_TRY(after_chunk(layer, first, rows));
    }
    GORGON_TRY(after_layer(layer));
  }
  return {};
}

}  // namespace gorgon

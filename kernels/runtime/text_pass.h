// A text through the model, layer after layer, each in chunks of rows: as a session's prefill, all of it in one call.
#pragma once

#include <algorithm>
#include <vector>

#include "runtime/kv_cache.h"
#include "runtime/model.h"

namespace gorgon {

/**
 * Leaves the text's last hidden rows in `hidden`, which grows if it is too small, and its K and V in `cache`, which has no rows. Calls
 * begin_layer(layer), then for each chunk after_chunk(layer, first, rows), while model.queries() are the chunk's, then after_layer(layer); the
 * first status that is not ok ends it. Needs the model's mutex, and Model::reserve for `chunk` rows where memory may be short.
 */
template <class BeginLayer, class AfterChunk, class AfterLayer>
Status run_text(Model& model, const int32_t* tokens, int64_t count, int64_t chunk, Buffer* hidden, KvCache* cache,
                const BeginLayer& begin_layer, const AfterChunk& after_chunk, const AfterLayer& after_layer) {
  if (hidden->bytes() < model.hidden_bytes(count)) GORGON_TRY(hidden->allocate(model.hidden_bytes(count), "hidden rows"));
  float* x = hidden->as<float>();
  for (int64_t layer = 0; layer < model.shape().layers; ++layer) {
    GORGON_TRY(cache->reserve(layer, count, 0));
    GORGON_TRY(begin_layer(layer));
    for (int64_t first = 0; first < count; first += chunk) {
      const int64_t rows = std::min(chunk, count - first);
      const RowSegment segment{cache, rows, first, first, tokens + first, nullptr, nullptr, 0, 0};
      GORGON_TRY(model.begin_pass(&segment, 1));
      float* chunk_x = x + first * model.hidden_stride();
      if (layer == 0) GORGON_TRY(model.embed(chunk_x));
      GORGON_TRY(model.forward_layer(layer, rows, chunk_x));
      cache->set_rows(layer, first + rows);
      GORGON_TRY(after_chunk(layer, first, rows));
    }
    GORGON_TRY(after_layer(layer));
  }
  return {};
}

}  // namespace gorgon

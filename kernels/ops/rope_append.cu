// rope_append on CUDA: one launch for queries, keys and values of all items of a pass.
//
//   block   8 neighbouring heads, at D = 128, of 2 neighbouring tokens; of more 4 heads of 4
//
//           | q 0 | q 1 | … | q Hq-1 | k 0 | … | v Hkv-1 |     of a row of qkv
//             8 lanes each, 1 to 16 with D, a power of two; each with neighbours for the other tokens
//
//   lane    8 neighbours of the head's first half and the same 8 of the second, which turn into each other: all in registers
//
// Several tokens, since K and V go to the rows of the caches as 16 bytes of a core each, which the rows beside it complete to sectors. The
// sum of squares of a head goes over its lanes by the same tree whatever the pass holds.
#include "common/cuda_context.h"
#include "common/packed.h"
#include "common/values.cuh"
#include "ops/rope_append.h"

namespace gorgon {

namespace {

constexpr int kThreads = 128;
constexpr int kFewTokens = 2;
constexpr int kManyTokens = 4;

/** The item that a token is of. All lanes of a head call it. */
template <int kTokens>
__device__ __forceinline__ int item_of(const PassItem* items, int item_count, int token, int lane, int lanes) {
  if (item_count == 1) return 0;
  int found = 0;
  for (int i = lane; i < item_count; i += lanes) {
    if (token >= items[i].first && token < items[i].first + items[i].tokens) found = i;
  }
  for (int step = lanes / 2; step > 0; step /= 2) found = max(found, __shfl_xor_sync(kAllLanes, found, step * kTokens));
  return found;
}

/** grid (groups of tokens, parts of the heads); `lanes` of each head; `kAligned`: eight neighbours of each half can be loaded and stored at once. */
template <class T, int kTokens, bool kAligned>
__global__ void __launch_bounds__(kThreads) rope_append_heads_kernel(RopeAppendArgs args, int lanes) {
  let_next_start();
  const int lane = threadIdx.x / kTokens % lanes;
  const int token = blockIdx.x * kTokens + threadIdx.x % kTokens;
  const int head = blockIdx.y * (kThreads / kTokens / lanes) + threadIdx.x / kTokens / lanes;
  const int query_heads = static_cast<int>(args.query_heads), kv_heads = static_cast<int>(args.kv_heads);
  const int dim = static_cast<int>(args.head_dim), half = dim / 2, first = lane * kEight, count = half - first;
  const bool is_query = head < query_heads, is_key = !is_query && head < query_heads + kv_heads;
  const bool exists = token < args.tokens && head < query_heads + 2 * kv_heads && count > 0;
  const auto load = [&](const float* from, float (&values)[kEight]) {
    if (!kAligned) {
      load_some(from + first, exists ? count : 0, values);
    } else if (exists) {
      load_eight(from + first, values);
    } else {
#pragma unroll
      for (int i = 0; i < kEight; ++i) values[i] = 0.0f;
    }
  };
  wait_for_previous();

  float low[kEight], high[kEight];
  const float* x = args.qkv + token * args.qkv_stride + head * dim;
  load(x, low);
  load(x + half, high);
  const PassItem* item = args.items + item_of<kTokens>(args.items, static_cast<int>(args.item_count), token, lane, lanes);

  if (args.q_norm != nullptr || args.k_norm != nullptr) {
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < kEight; ++i) squares = fmaf(high[i], high[i], fmaf(low[i], low[i], squares));
    for (int step = lanes / 2; step > 0; step /= 2) squares += __shfl_xor_sync(kAllLanes, squares, step * kTokens);
    const float* norm = is_query ? args.q_norm : is_key ? args.k_norm : nullptr;
    if (norm != nullptr) {
      const float scale = 1.0f / sqrtf(squares / static_cast<float>(dim) + args.eps);
      float weights[kEight];
      load(norm, weights);
#pragma unroll
      for (int i = 0; i < kEight; ++i) low[i] = low[i] * scale * weights[i];
      load(norm + half, weights);
#pragma unroll
      for (int i = 0; i < kEight; ++i) high[i] = high[i] * scale * weights[i];
    }
  }
  if (!exists) return;

  if (is_query || is_key) {
    const int64_t angles = static_cast<int64_t>(args.positions[token]) * half;
    float cos[kEight], sin[kEight];
    load(args.cos + angles, cos);
    load(args.sin + angles, sin);
#pragma unroll
    for (int i = 0; i < kEight; ++i) {
      const float x_low = low[i], x_high = high[i];
      low[i] = x_low * cos[i] - x_high * sin[i];
      high[i] = x_high * cos[i] + x_low * sin[i];
    }
  }

  const int width = static_cast<int>(core_head_width(dim));
  if (is_query) {
    T* to = static_cast<T*>(args.q) + token * args.q_stride + head * width;
    if (kAligned) {
      store_eight(to + first, low);
      store_eight(to + half + first, high);
      return;
    }
    store_some(to + first, count, low);
    store_some(to + half + first, count, high);
    if (lane == 0) {
      for (int d = dim; d < width; ++d) to[d] = from_float<T>(0.0f);
    }
    return;
  }

  const KvHead& cache = item->heads[args.layer * kv_heads + head - query_heads - (is_key ? 0 : kv_heads)];
  const int64_t node = token - item->first, row = item->rows + node;
  T* to = reinterpret_cast<T*>(is_key ? cache.k : cache.v);
  if (kAligned) {
    store_eight(to + kv_element(row, first, dim), low);
    store_eight(to + kv_element(row, half + first, dim), high);
  } else {
    for (int i = 0; i < kEight && i < count; ++i) {
      to[kv_element(row, first + i, dim)] = from_float<T>(low[i]);
      to[kv_element(row, half + first + i, dim)] = from_float<T>(high[i]);
    }
    if (lane == 0) {
      for (int d = dim; d < width; ++d) to[kv_element(row, d, dim)] = from_float<T>(0.0f);
    }
  }
  if (is_key && lane == 0 && cache.positions != nullptr) {
    cache.positions[row] = static_cast<int32_t>(item->position + (item->depths != nullptr ? item->depths[node] : node));
  }
}

}  // namespace

Status rope_append_cuda(const RopeAppendArgs& args, CudaContext& context) {
  const int64_t half = args.head_dim / 2;
  int lanes = 1;
  while (lanes * kEight < half) lanes *= 2;
  const bool aligned = half % kEight == 0 && args.qkv_stride % 4 == 0 && args.q_stride % kEight == 0 && on_16_bytes(args.qkv) && on_16_bytes(args.q) &&
                       on_16_bytes(args.cos) && on_16_bytes(args.sin) && on_16_bytes(args.q_norm) && on_16_bytes(args.k_norm);
  // All lanes of a head, with their neighbours', are of one warp.
  const int tokens = aligned && args.tokens > kFewTokens && lanes * kManyTokens <= kWarp ? kManyTokens : kFewTokens;
  const int64_t parts = divide_up(args.query_heads + 2 * args.kv_heads, kThreads / tokens / lanes);
  return with_dtype(args.dtype, [&](auto type) {
    using T = decltype(type);
    const auto kernel = !aligned                ? rope_append_heads_kernel<T, kFewTokens, false>
                        : tokens == kFewTokens ? rope_append_heads_kernel<T, kFewTokens, true>
                                               : rope_append_heads_kernel<T, kManyTokens, true>;
    return launch(context, "rope_append", kernel, dim3(static_cast<unsigned>(divide_up(args.tokens, tokens)), static_cast<unsigned>(parts)), dim3(kThreads), 0,
                  args, lanes);
  });
}

}  // namespace gorgon

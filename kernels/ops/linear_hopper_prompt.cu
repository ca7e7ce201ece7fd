// Prompt products on Hopper: many rows of activations times a weight.
//
// A tile of outputs is 128 tokens by n features, n = 256 where there are tiles enough to fill the device. Tokens are wgmma's 64 rows, features its
// columns; both come as blocks of cores, 8 KB each, that are one bulk copy:
//
//     stage (64 of depth)     tokens    [2 blocks]              warps 0-3 multiply the first block, warps 4-7 the second,
//                             features  [n / 64 blocks]         each by all of the features
//
// One CTA per multiprocessor goes from tile to tile; warp 8 copies, and is some stages into the next tile while the sums of the last are written.
// Tiles are ordered so that the CTAs at work at one time share their blocks in the L2: 16 token tiles by a few feature tiles.
//
// A row's sums are in the order of depth, whatever the tile: they depend neither on n nor on the other rows.
#include <algorithm>

#include "common/hopper.cuh"
#include "common/wgmma.cuh"
#include "ops/linear_hopper.cuh"

namespace gorgon {
namespace {

constexpr int kTileTokens = 128;
constexpr int kTokenBlocks = kTileTokens / static_cast<int>(kBlock);
constexpr int kConsumers = 256;
constexpr int kThreads = kConsumers + 128;
constexpr int kBlockBytes = static_cast<int>(kBlockElements) * 2;

template <int n>
struct Ring {
  static constexpr int kFeatureBlocks = n / static_cast<int>(kBlock);
  static constexpr int kStageBytes = (kTokenBlocks + kFeatureBlocks) * kBlockBytes;
  static constexpr int kStages = 200 * 1024 / kStageBytes;
  static constexpr int kBarrierBytes = 128;
  static constexpr int64_t kBytes = kStages * kStageBytes + kBarrierBytes;
  static_assert(2 * kStages * sizeof(uint64_t) <= kBarrierBytes);
};

struct Tiles {
  int64_t tokens;
  int64_t features;
};

#ifdef GORGON_SM90A

/** Token tiles that are walked together. */
constexpr int kTokenTilesTogether = 16;

__device__ __forceinline__ void find_tile(const Tiles& tiles, int64_t tile, int64_t* token, int64_t* feature) {
  const int64_t group = tile / (kTokenTilesTogether * tiles.features), first = group * kTokenTilesTogether;
  const int64_t together = min(int64_t{kTokenTilesTogether}, tiles.tokens - first), index = tile - first * tiles.features;
  *token = first + index % together;
  *feature = index / together;
}

// The sums of a row: d[4 j + 2 half] and its neighbour are columns first_column + 8 j and + 1.

__device__ __forceinline__ float2 pair_at(const float* values, int64_t column, float otherwise) {
  return values != nullptr ? *reinterpret_cast<const float2*>(values + column) : make_float2(otherwise, otherwise);
}

/** A whole row of a tile at even addresses, for kStore and kAdd. */
template <int n>
__device__ __forceinline__ void write_row(const HopperProduct& product, const float (&d)[n / 2], int half, int64_t row, int64_t first_column) {
  // Pairs that are read before any is written: their addresses may be the same for all that the compiler knows.
  constexpr int kTogether = 8;
  float* const out = product.out + row * product.out_stride + first_column;
#pragma unroll
  for (int first = 0; first < n / 8; first += kTogether) {
    float2 value[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      value[i] = product.epilogue == Epilogue::kAdd ? *reinterpret_cast<const float2*>(out + 8 * (first + i)) : make_float2(0.0f, 0.0f);
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int j = first + i;
      const float2 scale = pair_at(product.scale, first_column + 8 * j, 1.0f), bias = pair_at(product.bias, first_column + 8 * j, 0.0f);
      value[i].x += d[4 * j + 2 * half] * scale.x + bias.x;
      value[i].y += d[4 * j + 2 * half + 1] * scale.y + bias.y;
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) *reinterpret_cast<float2*>(out + 8 * (first + i)) = value[i];
  }
}

/** What there is of a row at the last columns, or at odd addresses. */
template <int n>
__device__ __forceinline__ void write_row_edge(const HopperProduct& product, const float (&d)[n / 2], int half, int64_t row, int64_t first_column) {
  float* const out = product.out + row * product.out_stride;
#pragma unroll
  for (int i = 0; i < n / 4; ++i) {
    const int64_t column = first_column + i / 2 * 8 + i % 2;
    if (column >= product.columns) continue;
    const float scale = product.scale != nullptr ? product.scale[column] : 1.0f, bias = product.bias != nullptr ? product.bias[column] : 0.0f;
    const float value = d[i / 2 * 4 + 2 * half + i % 2] * scale + bias;
    out[column] = product.epilogue == Epilogue::kAdd ? out[column] + value : value;
  }
}

/** Columns 16 i + 0 to 7 are gate's, the next 8 up's, of the same features. */
template <class T, int n>
__device__ __forceinline__ void write_gated_row(const HopperProduct& product, const float (&d)[n / 2], int half, int64_t row, int64_t first_column) {
  const int64_t first_feature = first_column / 16 * 8 + first_column % 8;
  T* const operand = static_cast<T*>(product.operand) + core_element(row, first_feature, product.width);
  const int features_left = static_cast<int>(min(min(product.width, product.columns / 2) - first_feature, int64_t{n}));
#pragma unroll
  for (int i = 0; i < n / 16; ++i) {
    if (8 * i >= features_left) break;
    // The tile's features begin at a block, or in the middle of one that ends with the tile.
    constexpr int kCoresOfBlock = static_cast<int>(kBlock / kCore);
    const int64_t to = i / kCoresOfBlock * kBlockElements + i % kCoresOfBlock * kCoreElements;
    const float2 gate_scale = pair_at(product.scale, first_column + 16 * i, 1.0f), up_scale = pair_at(product.scale, first_column + 16 * i + 8, 1.0f);
    float gate[2] = {d[8 * i + 2 * half] * gate_scale.x, d[8 * i + 2 * half + 1] * gate_scale.y};
    float up[2] = {d[8 * i + 4 + 2 * half] * up_scale.x, d[8 * i + 4 + 2 * half + 1] * up_scale.y};
    const bool whole = 8 * i + 1 < features_left;
    if (product.bias != nullptr) {
      const float* const bias = product.bias + first_feature + 8 * i;
      gate[0] += bias[0];
      up[0] += bias[product.width];
      if (whole) {
        gate[1] += bias[1];
        up[1] += bias[product.width + 1];
      }
    }
    *reinterpret_cast<uint32_t*>(operand + to) = pack_pair<T>(gated(gate[0], up[0]), whole ? gated(gate[1], up[1]) : 0.0f);
  }
}

#endif  // GORGON_SM90A

template <class T, int n>
__global__ __launch_bounds__(kThreads, 1) void linear_prompt_kernel(HopperProduct product, Tiles tiles) {
#ifdef GORGON_SM90A
  constexpr int kStages = Ring<n>::kStages, kStageBytes = Ring<n>::kStageBytes;
  constexpr int kFeatureBlocks = Ring<n>::kFeatureBlocks;
  extern __shared__ __align__(128) std::byte shared[];
  uint64_t* const full = reinterpret_cast<uint64_t*>(shared + kStages * kStageBytes);
  uint64_t* const empty = full + kStages;

  let_next_start();
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (threadIdx.x == kConsumers) {
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(&full[stage], 1);
      barrier_init(&empty[stage], kConsumers / kWarp);
    }
    barrier_init_done();
  }
  __syncthreads();

  const int64_t tile_depth = depth_blocks(product.depth), tile_count = tiles.tokens * tiles.features;
  if (warp >= kConsumers / kWarp) {
    fewer_registers<56>();
    wait_for_previous();
    if (threadIdx.x == kConsumers) {
      const std::byte* const x = static_cast<const std::byte*>(product.x);
      const std::byte* const w = static_cast<const std::byte*>(product.w);
      const int64_t token_blocks = (product.rows + kBlock - 1) / kBlock, feature_blocks = (product.columns + kBlock - 1) / kBlock;
      int stage = 0;
      uint32_t parity = 1;  // the first round finds the ring empty
      for (int64_t tile = blockIdx.x; tile < tile_count; tile += gridDim.x) {
        int64_t token, feature;
        find_tile(tiles, tile, &token, &feature);
        const int64_t first_token = token * kTokenBlocks, first_feature = feature * kFeatureBlocks;
        const int token_here = static_cast<int>(min(int64_t{kTokenBlocks}, token_blocks - first_token));
        const int feature_here = static_cast<int>(min(int64_t{kFeatureBlocks}, feature_blocks - first_feature));
        const int bytes = (token_here + feature_here) * kBlockBytes;
        const std::byte* tokens_from = x + first_token * tile_depth * kBlockBytes;
        const std::byte* features_from = w + first_feature * tile_depth * kBlockBytes;
        for (int64_t k = 0; k < tile_depth; ++k, tokens_from += kBlockBytes, features_from += kBlockBytes) {
          barrier_wait(&empty[stage], parity);
          std::byte* const to = shared + stage * kStageBytes;
          barrier_expect(&full[stage], bytes);
          for (int block = 0; block < token_here; ++block) {
            bulk_copy(to + block * kBlockBytes, tokens_from + block * tile_depth * kBlockBytes, kBlockBytes, &full[stage]);
          }
          for (int block = 0; block < feature_here; ++block) {
            bulk_copy(to + (kTokenBlocks + block) * kBlockBytes, features_from + block * tile_depth * kBlockBytes, kBlockBytes, &full[stage]);
          }
          if (++stage == kStages) {
            stage = 0;
            parity ^= 1;
          }
        }
      }
    }
  } else {
    more_registers<224>();
    wait_for_previous();
    const int group = warp / 4;
    const uint32_t tokens_address = shared_address(shared) + group * kBlockBytes, features_address = shared_address(shared) + kTokenBlocks * kBlockBytes;
    const bool even = product.out_stride % 2 == 0 && reinterpret_cast<uintptr_t>(product.out) % sizeof(float2) == 0 &&
                      reinterpret_cast<uintptr_t>(product.bias) % sizeof(float2) == 0;
    int stage = 0;
    uint32_t parity = 0;
    float d[n / 2];
    for (int64_t tile = blockIdx.x; tile < tile_count; tile += gridDim.x) {
      int before = -1;
      for (int64_t k = 0; k < tile_depth; ++k) {
        barrier_wait(&full[stage], parity);
        // Rows of cores are 1024 bytes apart, also from block to block; cores of a row 128; 16 of depth are two cores.
        const uint64_t a = wgmma_operand(tokens_address + stage * kStageBytes, 128, 1024);
        const uint64_t b = wgmma_operand(features_address + stage * kStageBytes, 128, 1024);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < 4; ++step) Wgmma<T, n>::run(d, a + step * (256 >> 4), b + step * (256 >> 4), k > 0 || step > 0);
        wgmma_commit();
        wgmma_wait<1>();
        if (before >= 0 && lane == 0) barrier_arrive(&empty[before]);
        before = stage;
        if (++stage == kStages) {
          stage = 0;
          parity ^= 1;
        }
      }
      wgmma_wait<0>();
      if (lane == 0) barrier_arrive(&empty[before]);

      int64_t token, feature;
      find_tile(tiles, tile, &token, &feature);
      const int64_t first_column = feature * n + 2 * (lane % 4);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t row = token * kTileTokens + group * kBlock + warp % 4 * 16 + lane / 4 + 8 * half;
        if (row >= product.rows) continue;
        if (product.epilogue == Epilogue::kGate) {
          write_gated_row<T, n>(product, d, half, row, first_column);
        } else if (even && (feature + 1) * n <= product.columns) {
          write_row<n>(product, d, half, row, first_column);
        } else {
          write_row_edge<n>(product, d, half, row, first_column);
        }
      }
    }
  }
#endif
}

template <class T, int n>
Status launch_prompt(const HopperProduct& product, CudaContext& context) {
  const Tiles tiles{(product.rows + kTileTokens - 1) / kTileTokens, (product.columns + n - 1) / n};
  const int64_t ctas = std::min<int64_t>(context.multiprocessors, tiles.tokens * tiles.features);
  return launch(context, "linear_prompt_kernel", linear_prompt_kernel<T, n>, dim3(static_cast<unsigned>(ctas)), dim3(kThreads), Ring<n>::kBytes, product, tiles);
}

}  // namespace

template <class T>
Status multiply_prompt_hopper(const HopperProduct& product, CudaContext& context) {
  // Rounds of tiles over the device, times what a tile takes: its features, and some for its beginning and end.
  const auto cost = [&](int64_t features) {
    const int64_t tiles = (product.rows + kTileTokens - 1) / kTileTokens * ((product.columns + features - 1) / features);
    return (tiles + context.multiprocessors - 1) / context.multiprocessors * (features + 32);
  };
  const int64_t wide = cost(256), middle = cost(128), narrow = cost(64);
  if (wide <= std::min(middle, narrow)) return launch_prompt<T, 256>(product, context);
  if (middle <= narrow) return launch_prompt<T, 128>(product, context);
  return launch_prompt<T, 64>(product, context);
}

template Status multiply_prompt_hopper<__nv_bfloat16>(const HopperProduct&, CudaContext&);
template Status multiply_prompt_hopper<__half>(const HopperProduct&, CudaContext&);

}  // namespace gorgon

// Packing of row-major weights on the device, at load time.
//
// The rows go through two halves of page-locked memory: while the device packs one half's rows, the next are copied from the file's mapping into
// the other. One thread writes 8 of depth of one row, 16 bytes where elements have 2: a core's row, or half of a lane's share of an int8 slice.
// A row of int8 has its largest magnitude found first, by one block.
#include <cstring>
#include <limits>
#include <type_traits>

#include "backend/backend.h"
#include "ops/pack_cuda.h"
#include "ops/linear_cuda.h"
#include "common/device.cuh"

namespace gorgon {

namespace {

constexpr int kThreads = 256;
/** Bytes of rows that travel together: large enough that a copy's latency is nothing, small enough to stay in the processor's cache. */
constexpr int64_t kPieceBytes = int64_t{8} << 20;

/** The packed row of source row `row`. */
struct RowMap {
  int64_t offset;
  int64_t part;
  bool gated;
  __device__ int64_t operator()(int64_t row) const { return gated ? gated_row(offset + row, part) : offset + row; }
};

template <class From>
__device__ __forceinline__ float element(const From* source, int64_t row, int64_t k, int64_t depth) {
  return k < depth ? to_float(source[row * depth + k]) : 0.0f;
}

template <class From, class To>
__global__ void pack_cores_kernel(const From* __restrict__ source, int64_t first, int64_t rows, int64_t depth, To* __restrict__ tiles, RowMap map) {
  let_next_start();
  wait_for_previous();
  const int64_t groups = (depth + kCore - 1) / kCore, thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (thread >= rows * groups) return;
  const int64_t row = thread / groups, k = thread % groups * kCore;
  To* to = tiles + core_element(map(first + row), k, depth);
#pragma unroll
  for (int i = 0; i < kCore; ++i) to[i] = from_float<To>(element(source, row, k + i, depth));
}

/** One block a row. */
template <class From>
__global__ void pack_int8_kernel(const From* __restrict__ source, int64_t first, int64_t depth, int8_t* __restrict__ tiles, float* __restrict__ scales, RowMap map) {
  constexpr float kSmallest = 0x1p-110f;
  __shared__ float partials[kThreads / kWarp];
  let_next_start();
  wait_for_previous();
  const int64_t row = blockIdx.x, packed = map(first + row);
  // Magnitudes that are not finite are one for now: comparisons with NaN would lose it.
  float largest = 0.0f;
  int bad = 0;
  for (int64_t k = threadIdx.x; k < depth; k += kThreads) {
    const float magnitude = fabsf(to_float(source[row * depth + k]));
    if (isfinite(magnitude)) {
      largest = fmaxf(largest, magnitude);
    } else {
      bad = 1;
    }
  }
  largest = warp_max(largest);
  if (threadIdx.x % kWarp == 0) partials[threadIdx.x / kWarp] = largest;
  bad = __syncthreads_or(bad);
  for (int warp = 0; warp < kThreads / kWarp; ++warp) largest = fmaxf(largest, partials[warp]);
  const float scale = bad != 0 ? __int_as_float(0x7fffffff) : largest < kSmallest ? 0.0f : __fdiv_rn(largest, 127.0f);
  if (threadIdx.x == 0) scales[packed] = scale;
  for (int64_t k = threadIdx.x * int64_t{4}; k < depth; k += kThreads * int64_t{4}) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (k + i >= depth) break;
      const float value = to_float(source[row * depth + k + i]);
      tiles[int8_weight_element(packed, k + i, depth)] = scale > 0.0f ? static_cast<int8_t>(rintf(__fdiv_rn(value, scale))) : int8_t{0};
    }
  }
}

/** A number that looks random, of a counter: splitmix64's last steps. */
__device__ __forceinline__ uint64_t mix(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ull;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebull;
  return value ^ (value >> 31);
}

/** About normal, of deviation 1: four 16-bit uniforms, whose variances add up to 1/3. */
__device__ __forceinline__ float about_normal(uint64_t bits) {
  const uint32_t total = static_cast<uint32_t>(bits & 0xffff) + static_cast<uint32_t>(bits >> 16 & 0xffff) + static_cast<uint32_t>(bits >> 32 & 0xffff) +
                         static_cast<uint32_t>(bits >> 48);
  return (static_cast<float>(total) - 131070.0f) * (1.7320508f / 65536.0f);
}

template <class T>
__global__ void fill_random_kernel(T* __restrict__ values, int64_t count, float deviation, uint64_t seed) {
  let_next_start();
  wait_for_previous();
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += stride) {
    const float value = about_normal(mix(seed + 0x9e3779b97f4a7c15ull * static_cast<uint64_t>(i + 1))) * deviation;
    if constexpr (sizeof(T) == 1) {
      values[i] = static_cast<T>(rintf(fminf(fmaxf(value, -127.0f), 127.0f)));
    } else {
      values[i] = from_float<T>(value);
    }
  }
}

__global__ void fill_kernel(float* __restrict__ values, int64_t count, float value) {
  let_next_start();
  wait_for_previous();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) values[i] = value;
}

template <class From>
Status pack_piece(const PackArgs& args, const void* staged, int64_t first, int64_t rows, RowMap map, int64_t packed_rows, CudaContext& context) {
  const From* source = static_cast<const From*>(staged);
  const int64_t threads = rows * ((args.depth + kCore - 1) / kCore);
  const auto pack = [&](auto kernel, auto* tiles) {
    return launch(context, "pack", kernel, blocks_of(threads, kThreads), dim3(kThreads), 0, source, first, rows, args.depth, tiles, map);
  };
  switch (args.to) {
    case DType::kF32:
      return pack(pack_cores_kernel<From, float>, static_cast<float*>(args.tiles));
    case DType::kF16:
      return pack(pack_cores_kernel<From, __half>, static_cast<__half*>(args.tiles));
    case DType::kBf16:
      return pack(pack_cores_kernel<From, __nv_bfloat16>, static_cast<__nv_bfloat16*>(args.tiles));
    case DType::kInt8:
      break;
  }
  auto* scales = reinterpret_cast<float*>(static_cast<char*>(args.tiles) + int8_scales_offset(packed_rows, args.depth));
  return launch(context, "pack", pack_int8_kernel<From>, dim3(static_cast<unsigned>(rows)), dim3(kThreads), 0, source, first, args.depth,
                static_cast<int8_t*>(args.tiles), scales, map);
}

/** Events that mark when a half of the page-locked memory may be written again. */
struct Halves {
  cudaEvent_t read[2] = {nullptr, nullptr};
  ~Halves() {
    for (cudaEvent_t event : read) {
      if (event != nullptr) cudaEventDestroy(event);
    }
  }
};

}  // namespace

int64_t packed_bytes_cuda(DType dtype, int64_t columns, int64_t depth) {
  if (dtype != DType::kInt8) return core_matrix_elements(columns, depth) * dtype_size(dtype);
  return int8_scales_offset(columns, depth) + (columns + kBlock - 1) / kBlock * kBlock * static_cast<int64_t>(sizeof(float));
}

Status pack_cuda(const PackArgs& args, CudaContext& context) {
  const int64_t row_bytes = args.depth * dtype_size(args.from), per_part = args.columns / 2;
  const int64_t part = args.gated && args.offset >= per_part ? 1 : 0;
  const RowMap map{args.offset - part * per_part, part, args.gated};
  const int64_t packed_rows = args.gated ? 2 * ((per_part + kCore - 1) / kCore * kCore) : args.columns;
  const int64_t fitting = kPieceBytes / row_bytes, piece_rows = fitting < 1 ? 1 : fitting < args.rows ? fitting : args.rows;
  const int64_t piece_bytes = (piece_rows * row_bytes + 255) / 256 * 256;
  char* staged = nullptr;
  void* page_locked = nullptr;
  GORGON_TRY(context.scratch(2 * piece_bytes, &staged));
  GORGON_TRY(context.pinned(2 * piece_bytes, &page_locked));
  GORGON_TRY(context.finish());  // whoever used the page-locked memory before
  Halves halves;
  for (cudaEvent_t& event : halves.read) GORGON_CUDA_TRY(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "packing");

  int64_t piece = 0;
  for (int64_t first = 0; first < args.rows; first += piece_rows, ++piece) {
    const int64_t half = piece % 2, rows = args.rows - first < piece_rows ? args.rows - first : piece_rows;
    char* from = static_cast<char*>(page_locked) + half * piece_bytes;
    if (piece >= 2) GORGON_CUDA_TRY(cudaEventSynchronize(halves.read[half]), "packing");
    std::memcpy(from, static_cast<const char*>(args.source) + first * row_bytes, static_cast<size_t>(rows * row_bytes));
    GORGON_CUDA_TRY(cudaMemcpyAsync(staged + half * piece_bytes, from, static_cast<size_t>(rows * row_bytes), cudaMemcpyHostToDevice, context.stream), "packing");
    GORGON_CUDA_TRY(cudaEventRecord(halves.read[half], context.stream), "packing");
    switch (args.from) {
      case DType::kF32:
        GORGON_TRY(pack_piece<float>(args, staged + half * piece_bytes, first, rows, map, packed_rows, context));
        break;
      case DType::kF16:
        GORGON_TRY(pack_piece<__half>(args, staged + half * piece_bytes, first, rows, map, packed_rows, context));
        break;
      default:
        GORGON_TRY(pack_piece<__nv_bfloat16>(args, staged + half * piece_bytes, first, rows, map, packed_rows, context));
    }
  }
  if (args.bad_row != nullptr) *args.bad_row = -1;
  if (args.to != DType::kInt8 || args.bad_row == nullptr) return context.finish();

  // The scales tell which rows were not finite. They are read through the page-locked memory, whose halves are free by then.
  const char* scales = static_cast<const char*>(args.tiles) + int8_scales_offset(packed_rows, args.depth);
  const int64_t count = piece_bytes / static_cast<int64_t>(sizeof(float)) * 2;
  const float* read = static_cast<const float*>(page_locked);
  for (int64_t first = 0; first < packed_rows && *args.bad_row < 0; first += count) {
    const int64_t rows = packed_rows - first < count ? packed_rows - first : count;
    GORGON_TRY(context.memory().download(page_locked, scales + first * static_cast<int64_t>(sizeof(float)), rows * static_cast<int64_t>(sizeof(float))));
    for (int64_t row = 0; row < args.rows && *args.bad_row < 0; ++row) {
      const int64_t packed = (args.gated ? gated_row(map.offset + row, part) : map.offset + row) - first;
      if (packed >= 0 && packed < rows && !(read[packed] <= std::numeric_limits<float>::max())) *args.bad_row = row;
    }
  }
  return {};
}

Status fill_random_cuda(void* values, DType dtype, int64_t columns, int64_t depth, float deviation, uint64_t seed, CudaContext& context) {
  const dim3 grid(static_cast<unsigned>(context.multiprocessors * 8)), block(kThreads);
  const auto fill = [&](auto* to, int64_t count, float by) {
    using T = std::remove_reference_t<decltype(*to)>;
    return launch(context, "fill_random", fill_random_kernel<T>, grid, block, 0, to, count, by, seed * 0xd1342543de82ef95ull);
  };
  switch (dtype) {
    case DType::kF32:
      return fill(static_cast<float*>(values), columns * depth, deviation);
    case DType::kF16:
      return fill(static_cast<__half*>(values), columns * depth, deviation);
    case DType::kBf16:
      return fill(static_cast<__nv_bfloat16*>(values), columns * depth, deviation);
    case DType::kInt8:
      break;
  }
  // As wide as a row of normal values, whose largest is some 3.5 deviations, would be.
  constexpr float kInt8Deviation = 36.0f;
  const int64_t offset = int8_scales_offset(columns, depth), rows = (columns + kBlock - 1) / kBlock * kBlock;
  GORGON_TRY(fill(static_cast<int8_t*>(values), offset, kInt8Deviation));
  return launch(context, "fill_random", fill_kernel, blocks_of(rows, kThreads), block, 0, reinterpret_cast<float*>(static_cast<char*>(values) + offset), rows,
                deviation / kInt8Deviation);
}

}  // namespace gorgon

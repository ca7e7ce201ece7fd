// kv_gather on CUDA: a column is 16 bytes of every row of one head's K or V, or the head's positions. No column touches another.
//
//   block of a long gather          block of a short one (a path of up to 8 nodes)
//     one column                      32 columns
//     512 threads x 4 rows a turn     8 rows each
//
// A turn loads all of its rows, then meets, then stores: row i comes from row rows[i] >= i, so what a store overwrites was loaded in this turn or
// before, and no later turn wants it. 8 heads of 128 are 264 blocks, all at once on 132 multiprocessors, with 8 MB on the way.
//
// Of a scattered row each column fetches a sector of 32 bytes, so a compression moves up to 3 bytes for 2 that the contract counts.
#include <algorithm>

#include "common/cuda_context.h"
#include "common/packed.h"
#include "common/values.cuh"
#include "ops/kv_gather.h"

namespace gorgon {

namespace {

constexpr int kMaxThreads = 512;
constexpr int kShortThreads = 256;
constexpr int kRowsInFlight = 4;
constexpr int64_t kPieceBytes = 16;

/** One column: rows are found as in a core, eight neighbours `step` bytes apart, then a group further. Positions are such a column of 4 bytes. */
struct Column {
  std::byte* base;
  int64_t group_bytes;
  int step;
  __device__ __forceinline__ std::byte* at(int64_t row) const { return base + row / kCore * group_bytes + row % kCore * step; }
};

/** `size` bytes a value. */
__device__ __forceinline__ Column column_of(const KvHead& head, int64_t piece, int64_t width, int64_t size) {
  const int64_t pieces = width * size / kPieceBytes, core_pieces = kCore * size / kPieceBytes;
  if (piece == 2 * pieces) return {reinterpret_cast<std::byte*>(head.positions), kCore * static_cast<int64_t>(sizeof(int32_t)), sizeof(int32_t)};
  const int64_t own = piece % pieces, offset = own / core_pieces * kCoreElements * size + own % core_pieces * kPieceBytes;
  return {(piece < pieces ? head.k : head.v) + offset, kCore * width * size, static_cast<int>(kCore * size)};
}

/** blockDim is (threads of a column, columns). No pointer is restricted: what is loaded here is overwritten by others. */
__global__ void __launch_bounds__(kMaxThreads, 2) kv_gather_columns_kernel(const KvHead* heads, int64_t columns, int64_t width, int64_t size, int64_t first,
                                                                        const int32_t* rows, int64_t rows_stride, int64_t count) {
  let_next_start();
  wait_for_previous();
  const int64_t pieces = width * size / kPieceBytes, columns_of_head = 2 * pieces + 1;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  const int64_t kv_head = column / columns_of_head, piece = column % columns_of_head;
  const bool is_positions = piece == 2 * pieces;
  const Column own = column < columns ? column_of(heads[kv_head], piece, width, size) : Column{};
  const int32_t* from_rows = rows + kv_head * rows_stride;

  const int threads = blockDim.x, thread = threadIdx.x;
  for (int64_t begin = 0; begin < count; begin += static_cast<int64_t>(threads) * kRowsInFlight) {
    int from[kRowsInFlight];
    uint4 moved[kRowsInFlight];
#pragma unroll
    for (int turn = 0; turn < kRowsInFlight; ++turn) {
      const int i = static_cast<int>(begin) + turn * threads + thread;
      from[turn] = own.base != nullptr && i < count ? from_rows[i] : i;
    }
#pragma unroll
    for (int turn = 0; turn < kRowsInFlight; ++turn) {
      const int i = static_cast<int>(begin) + turn * threads + thread;
      if (from[turn] == i) continue;
      if (is_positions) {
        moved[turn].x = *reinterpret_cast<const uint32_t*>(own.at(first + from[turn]));
      } else {
        moved[turn] = *reinterpret_cast<const uint4*>(own.at(first + from[turn]));
      }
    }
    __syncthreads();  // every row of this turn is loaded before any is overwritten
#pragma unroll
    for (int turn = 0; turn < kRowsInFlight; ++turn) {
      const int i = static_cast<int>(begin) + turn * threads + thread;
      if (from[turn] == i) continue;
      if (is_positions) {
        *reinterpret_cast<uint32_t*>(own.at(first + i)) = moved[turn].x;
      } else {
        *reinterpret_cast<uint4*>(own.at(first + i)) = moved[turn];
      }
    }
  }
}

}  // namespace

Status kv_gather_cuda(const KvGatherArgs& args, CudaContext& context) {
  if (args.count == 0) return {};
  int threads = static_cast<int>(kCore);
  while (threads < args.count && threads < kMaxThreads) threads *= 2;
  const int columns_of_block = std::max(1, kShortThreads / threads);
  const int64_t width = core_head_width(args.head_dim), size = dtype_size(args.dtype);
  const int64_t columns = args.kv_heads * (2 * width * size / kPieceBytes + 1);
  return launch(context, "kv_gather", kv_gather_columns_kernel, dim3(static_cast<unsigned>(divide_up(columns, columns_of_block))),
                dim3(static_cast<unsigned>(threads), static_cast<unsigned>(columns_of_block)), 0, args.heads, columns, width, size, args.first, args.rows,
                args.rows_stride, args.count);
}

}  // namespace gorgon

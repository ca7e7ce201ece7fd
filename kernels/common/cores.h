// Cores: the one layout of matrices on CUDA. A core is 8 rows by 8 of depth, 128 bytes of bf16: what ldmatrix reads at once and what wgmma takes
// without a swizzle. Blocks of 64 rows by 64 of depth hold 64 cores and lie one behind the other, so that any tile is one bulk copy or a few.
//
//   [rows / 64][depth / 64] blocks of [8 row groups][8 depth groups][8 rows][8 of depth]
//
// wgmma, K-major, no swizzle: 128 bytes from a core to its neighbour in depth, 1024 to its neighbour in rows (of a 2-byte type).
//
// Weights [N, K]: rows are outputs. Operand rows [M, K]: rows are tokens. Edges are rounded up to 64: a weight's are zeros, an operand's are
// zeros past K and anything past M. A gated weight (gate beside up) holds 8 rows of gate, then the same 8 rows of up: gated_row.
//
// A cache's K and V, per layer and KV head, have 8 rows by all of the head's width in one piece:
//
//   [rows / 8][D' / 8][8 rows][8 of D']        D' = D rounded up to 16, zeros past D
//
// so that neighbouring rows are one bulk copy. Its capacity is a multiple of 64 rows, and every row up to there holds finite numbers.
#pragma once

#include <cstdint>

#include "common/packed.h"

#ifdef __CUDACC__
#define GORGON_HOST_DEVICE __host__ __device__
#else
#define GORGON_HOST_DEVICE
#endif

namespace gorgon {

constexpr int64_t kCore = 8;
constexpr int64_t kCoreElements = kCore * kCore;
constexpr int64_t kBlock = 64;
constexpr int64_t kBlockElements = kBlock * kBlock;
/** Rows of a CUDA cache that are reserved together. */
constexpr int64_t kCudaRowGroup = 64;

/** Blocks, side by side, of a depth. */
GORGON_HOST_DEVICE static inline int64_t depth_blocks(int64_t depth) { return (depth + kBlock - 1) / kBlock; }

/** Index of element (row, k). */
GORGON_HOST_DEVICE static inline int64_t core_element(int64_t row, int64_t k, int64_t depth) {
  const int64_t block = row / kBlock * depth_blocks(depth) + k / kBlock;
  return block * kBlockElements + (row % kBlock / kCore * (kBlock / kCore) + k % kBlock / kCore) * kCoreElements + row % kCore * kCore + k % kCore;
}

/** Row, in a gated weight, of output `row` of the gate (part 0) or of the up projection (part 1). */
GORGON_HOST_DEVICE static inline int64_t gated_row(int64_t row, int64_t part) { return row / kCore * 2 * kCore + part * kCore + row % kCore; }

static inline int64_t core_matrix_elements(int64_t rows, int64_t depth) { return (rows + kBlock - 1) / kBlock * depth_blocks(depth) * kBlockElements; }

/** Width of a head in caches and query rows. */
GORGON_HOST_DEVICE static inline int64_t core_head_width(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }

/** Index of element (row, d) of a cache's K or V. */
GORGON_HOST_DEVICE static inline int64_t kv_element(int64_t row, int64_t d, int64_t head_dim) {
  return (row / kCore * (core_head_width(head_dim) / kCore) + d / kCore) * kCoreElements + row % kCore * kCore + d % kCore;
}

}  // namespace gorgon

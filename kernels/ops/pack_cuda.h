// Packing on the device: row-major weights become cores, or int8 slices with scales (ops/linear_cuda.h); and weights made up for benchmarks.
#pragma once

#include "common/cuda_context.h"
#include "common/dtype.h"

namespace gorgon {

struct PackArgs;

/** `columns`: packed rows, of a gated weight both parts', each rounded up to 8. */
int64_t packed_bytes_cuda(DType dtype, int64_t columns, int64_t depth);

/** Waits until the source has been read. */
Status pack_cuda(const PackArgs& args, CudaContext& context);

/** columns * depth random values, about normal: of int8 the whole numbers of a packed weight, and one scale for all of its rows. */
Status fill_random_cuda(void* values, DType dtype, int64_t columns, int64_t depth, float deviation, uint64_t seed, CudaContext& context);

}  // namespace gorgon

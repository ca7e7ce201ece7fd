// Products on Hopper: rows of an operand times a weight, both in cores (common/cores.h), by wgmma. Two ways, which linear and gated_linear choose
// from: decode streams the weight once for up to 64 rows, prompt multiplies many rows.
//
//   sum[m, n] = sum over k of x[m, k] * w[n, k];  v[m, n] = sum[m, n] * scale[n] + bias[n]
//
//   kStore   out[m, n] = v[m, n]
//   kAdd     out[m, n] = out[m, n] + v[m, n]
//   kGate    operand[m, f] = silu(v of gate's row f) * (v of up's row f)
//
// Row result  independent of `rows` within each of the two ways, bit for bit.
#pragma once

#include "common/cuda_context.h"

namespace gorgon {

enum class Epilogue { kStore, kAdd, kGate };

struct HopperProduct {
  /** Cores of [rows, depth]. */
  const void* x;
  int64_t rows;
  /** Cores of [columns, depth]. For kGate `columns` is 2 width rounded up to 16, packed as gated_row says. */
  const void* w;
  int64_t columns;
  int64_t depth;
  /** f32 [columns], or null; for kGate [2 width], gate's, then up's. */
  const float* bias;
  Epilogue epilogue;
  /** kStore, kAdd: f32 [rows, columns]. */
  float* out;
  int64_t out_stride;
  /** kGate: cores of [rows, width]. */
  void* operand;
  int64_t width;
  /** f32 [columns], in the order of the weight's rows, or null: 1. */
  const float* scale;
};

#ifdef __CUDACC__
/** silu(gate) * up. __fdividef's error, 2 units in the last place, is lost when the result is rounded to T; of 1 + e^-gate > 2^126 it makes 0. */
__device__ __forceinline__ float gated(float gate, float up) { return __fdividef(gate, 1.0f + expf(-gate)) * up; }
#endif

/** For rows of decoding: at least 1; the weight is read once for every 64 of them. */
template <class T>
Status multiply_decode_hopper(const HopperProduct& product, CudaContext& context);

/** For rows of a prompt. */
template <class T>
Status multiply_prompt_hopper(const HopperProduct& product, CudaContext& context);

}  // namespace gorgon

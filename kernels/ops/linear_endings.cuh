// Where a product's sums go: what the endings of linear_cuda.h do with one value, or with a gate and its up.
#pragma once

#include "common/device.cuh"
#include "ops/linear_cuda.h"

namespace gorgon {

/** x / (1 + e^-x): of -inf, and of what overflows, -0; the division is a correctly rounded one. */
__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }

/** A column's scale, then its bias. */
__device__ __forceinline__ float scaled(const Product& product, int64_t column, float sum) {
  return product.scale != nullptr ? sum * product.scale[column] : sum;
}
__device__ __forceinline__ float biased(const Product& product, int64_t column, float sum) {
  return product.bias != nullptr ? sum + product.bias[column] : sum;
}

/** Every ending but kGate; `column` is one of the product's, `row` too. */
template <class T>
__device__ __forceinline__ void end_value(const Product& product, Ending ending, int64_t row, int64_t column, float sum) {
  sum = scaled(product, column, sum);
  if (ending == Ending::kApart) {
    const int64_t part = column / kCore % 2, feature = column / (2 * kCore) * kCore + column % kCore;
    if (feature >= product.width) return;
    product.out[row * product.out_stride + part * product.width + feature] = biased(product, part * product.width + feature, sum);
    return;
  }
  sum = biased(product, column, sum);
  float* out = product.out + row * product.out_stride + column;
  if (ending == Ending::kAdd) sum = *out + sum;
  if (ending == Ending::kBlock) {
    sum = product.residual[row * product.residual_stride + column] + silu(sum);
    static_cast<T*>(product.operand)[core_element(product.operand_row + row, column, product.columns)] = from_float<T>(sum);
  }
  *out = sum;
}

/** kGate; `gate_column` is a packed row of the gate, whose up projection's is 8 further on. */
template <class T>
__device__ __forceinline__ void end_gate(const Product& product, int64_t row, int64_t gate_column, float gate, float up) {
  const int64_t feature = gate_column / (2 * kCore) * kCore + gate_column % kCore;
  if (feature >= product.width) return;
  gate = biased(product, feature, scaled(product, gate_column, gate));
  up = biased(product, product.width + feature, scaled(product, gate_column + kCore, up));
  static_cast<T*>(product.operand)[core_element(product.operand_row + row, feature, product.width)] = from_float<T>(silu(gate) * up);
}

}  // namespace gorgon

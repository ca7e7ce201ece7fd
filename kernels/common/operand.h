// Operand rows: activations as a backend's products take them. Nobody but the backend looks inside.
//
//   CPU    f32 [M, stride]: the stride is at least K rounded up to 32, with zeros past K; holds values of bf16 where weights are bf16 or int8
//          (who produces them rounds), unrounded ones with f16 and f32 weights
//   CUDA   cores (common/cores.h) of the model's dtype, M and K rounded up to 64, with zeros past K; there is no stride
//
// The zeros are there from the allocation on, and nobody writes to them. Query rows, which attention takes:
//
//   CPU    f32 [T, Hq, D'], D' = D rounded up to 32, zeros past D; values of bf16 where the cache is bf16
//   CUDA   dtype [T, Hq, D'], D' = D rounded up to 16, zeros past D
#pragma once

#include "common/dtype.h"

// silu: x / (1 + e^-x) of sixteen lanes, for the operations that gate with it.
#pragma once

#include "common/simd.h"

namespace gorgon::GORGON_ISA {

GORGON_INLINE F32x16 silu(F32x16 x) { return x / (broadcast(1.0f) + exp(zero() - x)); }

}  // namespace gorgon::GORGON_ISA

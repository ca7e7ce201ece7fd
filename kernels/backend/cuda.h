// The CUDA tables: one per generation of code, filled with the same operations.
#pragma once

#include "backend/backend.h"

namespace gorgon {

/** Of sm_90a code where `hopper`, else of what runs from compute capability 8.0 on. */
Backend cuda_table(bool hopper);

}  // namespace gorgon

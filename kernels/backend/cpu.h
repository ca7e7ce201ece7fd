// The CPU tables: one per instruction set, filled by files compiled for it.
#pragma once

#include "backend/backend.h"

namespace gorgon {

#define GORGON_DECLARE_ISA(isa) \
  namespace isa {               \
  void fill_cpu_table(Backend& table); \
  }
GORGON_DECLARE_ISA(portable)
#if defined(__x86_64__)
GORGON_DECLARE_ISA(avx2)
GORGON_DECLARE_ISA(avx512)
#endif
#if defined(GORGON_HAS_AMX_TABLE)
GORGON_DECLARE_ISA(amx)
#endif
#undef GORGON_DECLARE_ISA

}  // namespace gorgon

// Asking the processor and the system for AMX.
#include "common/amx.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace gorgon {

#if defined(GORGON_EMULATE_AMX)

bool has_amx() { return true; }

#elif defined(__x86_64__) && defined(__linux__)

namespace {

bool processor_has_amx() {
  unsigned eax, ebx, ecx, edx;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  return (edx & kAmxBf16) != 0 && (edx & kAmxTile) != 0;
}

/** The registers are large, so a process asks before its threads may use them. */
bool system_permits_amx() {
  constexpr long kArchRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kArchRequestPermission, kTileData) == 0;
}

}  // namespace

bool has_amx() {
  static const bool answer = processor_has_amx() && system_permits_amx();
  return answer;
}

#else

bool has_amx() { return false; }

#endif

}  // namespace gorgon

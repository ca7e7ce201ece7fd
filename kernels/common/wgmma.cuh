// wgmma: d[64 x n] (+)= a[64 x 16] b[n x 16]^T, f32 sums, by one warpgroup. Operands of cores (common/cores.h): K-major, no swizzle; b may also be
// given transposed ([16 x n], n contiguous: V of attention); a may also come from registers, as four mma.m16n8k16 operands, one per warp.
//
// Lane l of warp w of the group holds, for columns 8 j + 2 (l % 4) and + 1: d[4 j], d[4 j + 1] of row 16 w + l / 4 and d[4 j + 2], d[4 j + 3] of
// the row 8 further on. `accumulate` 0 starts from zero. Between wgmma_fence and wgmma_wait nobody else touches d.
#pragma once

#include "common/hopper.cuh"

#ifdef GORGON_SM90A

namespace gorgon {

template <class T, int n>
struct Wgmma {
  static __device__ void run(float (&d)[n / 2], uint64_t a, uint64_t b, int accumulate);
  static __device__ void run(float (&d)[n / 2], const uint32_t (&a)[4], uint64_t b, int accumulate);
  static __device__ void run_transposed(float (&d)[n / 2], const uint32_t (&a)[4], uint64_t b, int accumulate);
};

// The registers of d are operands 0 to n / 2 - 1 of the instruction and must be written out one by one; the others come behind them. A form is
// there for the n that kernels use.

#define GORGON_WGMMA_REGISTERS_4 "%0, %1, %2, %3"
#define GORGON_WGMMA_REGISTERS_8 GORGON_WGMMA_REGISTERS_4 ", %4, %5, %6, %7"
#define GORGON_WGMMA_REGISTERS_16 GORGON_WGMMA_REGISTERS_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define GORGON_WGMMA_REGISTERS_32 GORGON_WGMMA_REGISTERS_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define GORGON_WGMMA_REGISTERS_64 GORGON_WGMMA_REGISTERS_32 \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define GORGON_WGMMA_REGISTERS_128 GORGON_WGMMA_REGISTERS_64 \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
  ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95" \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
  ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

#define GORGON_WGMMA_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define GORGON_WGMMA_16(i) GORGON_WGMMA_4(i), GORGON_WGMMA_4(i + 4), GORGON_WGMMA_4(i + 8), GORGON_WGMMA_4(i + 12)
#define GORGON_WGMMA_64(i) GORGON_WGMMA_16(i), GORGON_WGMMA_16(i + 16), GORGON_WGMMA_16(i + 32), GORGON_WGMMA_16(i + 48)
#define GORGON_WGMMA_SUMS_4 GORGON_WGMMA_4(0)
#define GORGON_WGMMA_SUMS_8 GORGON_WGMMA_4(0), GORGON_WGMMA_4(4)
#define GORGON_WGMMA_SUMS_16 GORGON_WGMMA_16(0)
#define GORGON_WGMMA_SUMS_32 GORGON_WGMMA_16(0), GORGON_WGMMA_16(16)
#define GORGON_WGMMA_SUMS_64 GORGON_WGMMA_64(0)
#define GORGON_WGMMA_SUMS_128 GORGON_WGMMA_64(0), GORGON_WGMMA_64(64)

#define GORGON_WGMMA_TEXT(n, type, first, a, b, accumulate, flags)                                                                                             \
  "{.reg .pred p; setp.ne.b32 p, %" #accumulate ", 0; wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." #type "." #type " {"                                    \
  GORGON_WGMMA_REGISTERS_##first "}, " a ", %" #b ", p, 1, 1, " flags ";}"

// a and b in shared memory. After n: the numbers of the operands a, b and accumulate.
#define GORGON_WGMMA_SHARED_OF(T, type, n, first, second, last)                                                                                                \
  template <>                                                                                                                                                  \
  __device__ __forceinline__ void Wgmma<T, n>::run(float (&d)[n / 2], uint64_t a, uint64_t b, int accumulate) {                                                \
    asm volatile(GORGON_WGMMA_TEXT(n, type, first, "%" #first, second, last, "0, 0")                                                                           \
                 : GORGON_WGMMA_SUMS_##first                                                                                                                   \
                 : "l"(a), "l"(b), "r"(accumulate));                                                                                                           \
  }
#define GORGON_WGMMA_SHARED(n, ...) \
  GORGON_WGMMA_SHARED_OF(__nv_bfloat16, bf16, n, __VA_ARGS__) GORGON_WGMMA_SHARED_OF(__half, f16, n, __VA_ARGS__)

// a in registers. After n: the numbers of the four of a, of b and of accumulate; then whether b is transposed.
#define GORGON_WGMMA_LEFT_OF(T, type, function, n, a0, a1, a2, a3, behind, last, transposed)                                                                   \
  template <>                                                                                                                                                  \
  __device__ __forceinline__ void Wgmma<T, n>::function(float (&d)[n / 2], const uint32_t (&a)[4], uint64_t b, int accumulate) {                               \
    asm volatile(GORGON_WGMMA_TEXT(n, type, a0, "{%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 "}", behind, last, #transposed)                                         \
                 : GORGON_WGMMA_SUMS_##a0                                                                                                                      \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));                                                                       \
  }
#define GORGON_WGMMA_LEFT(function, ...) \
  GORGON_WGMMA_LEFT_OF(__nv_bfloat16, bf16, function, __VA_ARGS__) GORGON_WGMMA_LEFT_OF(__half, f16, function, __VA_ARGS__)

GORGON_WGMMA_SHARED(8, 4, 5, 6)
GORGON_WGMMA_SHARED(16, 8, 9, 10)
GORGON_WGMMA_SHARED(32, 16, 17, 18)
GORGON_WGMMA_SHARED(64, 32, 33, 34)
GORGON_WGMMA_SHARED(128, 64, 65, 66)
GORGON_WGMMA_SHARED(256, 128, 129, 130)
GORGON_WGMMA_LEFT(run, 64, 32, 33, 34, 35, 36, 37, 0)
GORGON_WGMMA_LEFT(run, 128, 64, 65, 66, 67, 68, 69, 0)
GORGON_WGMMA_LEFT(run_transposed, 64, 32, 33, 34, 35, 36, 37, 1)
GORGON_WGMMA_LEFT(run_transposed, 128, 64, 65, 66, 67, 68, 69, 1)

}  // namespace gorgon

#endif  // GORGON_SM90A

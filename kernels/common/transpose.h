// transpose: sixteen by sixteen floats in registers, rows to columns.
#pragma once

#include "common/simd.h"

namespace gorgon::GORGON_ISA {

#if GORGON_SIMD_AVX2
/** Eight by eight. */
GORGON_INLINE void transpose_eight(__m256 (&a)[8]) {
  __m256 pairs[8], fours[8];
  for (int i = 0; i < 4; ++i) {
    pairs[2 * i] = _mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]);
    pairs[2 * i + 1] = _mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    const __m256* p = pairs + 4 * i;
    fours[4 * i] = _mm256_shuffle_ps(p[0], p[2], 0x44);
    fours[4 * i + 1] = _mm256_shuffle_ps(p[0], p[2], 0xee);
    fours[4 * i + 2] = _mm256_shuffle_ps(p[1], p[3], 0x44);
    fours[4 * i + 3] = _mm256_shuffle_ps(p[1], p[3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    a[i] = _mm256_permute2f128_ps(fours[i], fours[4 + i], 0x20);
    a[4 + i] = _mm256_permute2f128_ps(fours[i], fours[4 + i], 0x31);
  }
}
#endif

/** Lane j of a[i] becomes lane i of a[j]. */
GORGON_INLINE void transpose(F32x16 (&a)[kLanes]) {
#if GORGON_SIMD_AVX512
  __m512 pairs[kLanes], fours[kLanes];  // of neighbouring rows, in each quarter of a register
  for (int i = 0; i < 8; ++i) {
    pairs[2 * i] = _mm512_unpacklo_ps(a[2 * i].v, a[2 * i + 1].v);
    pairs[2 * i + 1] = _mm512_unpackhi_ps(a[2 * i].v, a[2 * i + 1].v);
  }
  for (int i = 0; i < 4; ++i) {
    const __m512* p = pairs + 4 * i;
    fours[4 * i] = _mm512_shuffle_ps(p[0], p[2], 0x44);
    fours[4 * i + 1] = _mm512_shuffle_ps(p[0], p[2], 0xee);
    fours[4 * i + 2] = _mm512_shuffle_ps(p[1], p[3], 0x44);
    fours[4 * i + 3] = _mm512_shuffle_ps(p[1], p[3], 0xee);
  }
  // Quarter q of fours[4 * i + c]: column 4 * q + c of rows 4 * i to 4 * i + 3.
  for (int c = 0; c < 4; ++c) {
    const __m512 even_top = _mm512_shuffle_f32x4(fours[c], fours[4 + c], 0x88), odd_top = _mm512_shuffle_f32x4(fours[c], fours[4 + c], 0xdd);
    const __m512 even_end = _mm512_shuffle_f32x4(fours[8 + c], fours[12 + c], 0x88), odd_end = _mm512_shuffle_f32x4(fours[8 + c], fours[12 + c], 0xdd);
    a[c].v = _mm512_shuffle_f32x4(even_top, even_end, 0x88);
    a[4 + c].v = _mm512_shuffle_f32x4(odd_top, odd_end, 0x88);
    a[8 + c].v = _mm512_shuffle_f32x4(even_top, even_end, 0xdd);
    a[12 + c].v = _mm512_shuffle_f32x4(odd_top, odd_end, 0xdd);
  }
#elif GORGON_SIMD_AVX2
  for (int row = 0; row < kLanes; row += 8) {
    __m256 half[8];
    for (int i = 0; i < 8; ++i) half[i] = a[row + i].lo;
    transpose_eight(half);
    for (int i = 0; i < 8; ++i) a[row + i].lo = half[i];
    for (int i = 0; i < 8; ++i) half[i] = a[row + i].hi;
    transpose_eight(half);
    for (int i = 0; i < 8; ++i) a[row + i].hi = half[i];
  }
  for (int i = 0; i < 8; ++i) {
    const __m256 corner = a[i].hi;
    a[i].hi = a[8 + i].lo;
    a[8 + i].lo = corner;
  }
#else
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < i; ++j) {
      const float value = a[i].v[j];
      a[i].v[j] = a[j].v[i];
      a[j].v[i] = value;
    }
  }
#endif
}

}  // namespace gorgon::GORGON_ISA

// Comparisons of the lanes of an F32x16 as a word of bits, for code that looks for rare lanes.
#pragma once

#include "common/simd.h"

namespace gorgon::GORGON_ISA {

/** Bit i: lane i is greater than `limit`. Never set where either is NaN. */
GORGON_INLINE uint32_t lanes_above(F32x16 a, float limit) {
#if GORGON_SIMD_AVX512
  return _mm512_cmp_ps_mask(a.v, _mm512_set1_ps(limit), _CMP_GT_OQ);
#elif GORGON_SIMD_AVX2
  const __m256 bound = _mm256_set1_ps(limit);
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a.lo, bound, _CMP_GT_OQ))) |
         static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a.hi, bound, _CMP_GT_OQ))) << 8;
#else
  uint32_t mask = 0;
  for (int i = 0; i < kLanes; ++i) mask |= static_cast<uint32_t>(a.v[i] > limit) << i;
  return mask;
#endif
}

/** Bit i: lane i is greater than `limit`, or equal. Never set where either is NaN. */
GORGON_INLINE uint32_t lanes_not_below(F32x16 a, float limit) {
#if GORGON_SIMD_AVX512
  return _mm512_cmp_ps_mask(a.v, _mm512_set1_ps(limit), _CMP_GE_OQ);
#elif GORGON_SIMD_AVX2
  const __m256 bound = _mm256_set1_ps(limit);
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a.lo, bound, _CMP_GE_OQ))) |
         static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a.hi, bound, _CMP_GE_OQ))) << 8;
#else
  uint32_t mask = 0;
  for (int i = 0; i < kLanes; ++i) mask |= static_cast<uint32_t>(a.v[i] >= limit) << i;
  return mask;
#endif
}

/** How many lanes of `a` are greater than `limit`. */
GORGON_INLINE int count_above(F32x16 a, float limit) {
#if GORGON_SIMD_AVX512 || GORGON_SIMD_AVX2
  return __builtin_popcount(lanes_above(a, limit));
#else
  int count = 0;
  for (int i = 0; i < kLanes; ++i) count += a.v[i] > limit ? 1 : 0;
  return count;
#endif
}

/** Index of the lowest bit; `mask` is not 0. */
GORGON_INLINE int lowest_lane(uint32_t mask) { return __builtin_ctz(mask); }

}  // namespace gorgon::GORGON_ISA

// LaneSums: sixteen f64 sums, one for each lane of an F32x16, for sums over a vocabulary.
#pragma once

#include "common/simd.h"

namespace gorgon::GORGON_ISA {

#if GORGON_SIMD_AVX512

struct LaneSums {
  __m512d lo = _mm512_setzero_pd(), hi = _mm512_setzero_pd();
};
GORGON_INLINE void store(double* p, const LaneSums& sums) {
  _mm512_storeu_pd(p, sums.lo);
  _mm512_storeu_pd(p + 8, sums.hi);
}
GORGON_INLINE __m512d low_lanes(F32x16 a) { return _mm512_cvtps_pd(_mm512_castps512_ps256(a.v)); }
GORGON_INLINE __m512d high_lanes(F32x16 a) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(a.v, 1)); }
GORGON_INLINE void add(LaneSums& sums, F32x16 a) {
  sums.lo = _mm512_add_pd(sums.lo, low_lanes(a));
  sums.hi = _mm512_add_pd(sums.hi, high_lanes(a));
}
/** Adds the products, which are exact in f64. */
GORGON_INLINE void add_product(LaneSums& sums, F32x16 a, F32x16 b) {
  sums.lo = _mm512_add_pd(sums.lo, _mm512_mul_pd(low_lanes(a), low_lanes(b)));
  sums.hi = _mm512_add_pd(sums.hi, _mm512_mul_pd(high_lanes(a), high_lanes(b)));
}

#elif GORGON_SIMD_AVX2

struct LaneSums {
  __m256d quarter[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()};
};
GORGON_INLINE void store(double* p, const LaneSums& sums) {
  for (int i = 0; i < 4; ++i) _mm256_storeu_pd(p + 4 * i, sums.quarter[i]);
}
GORGON_INLINE __m256d low_lanes(__m256 half) { return _mm256_cvtps_pd(_mm256_castps256_ps128(half)); }
GORGON_INLINE __m256d high_lanes(__m256 half) { return _mm256_cvtps_pd(_mm256_extractf128_ps(half, 1)); }
GORGON_INLINE void add(LaneSums& sums, F32x16 a) {
  sums.quarter[0] = _mm256_add_pd(sums.quarter[0], low_lanes(a.lo));
  sums.quarter[1] = _mm256_add_pd(sums.quarter[1], high_lanes(a.lo));
  sums.quarter[2] = _mm256_add_pd(sums.quarter[2], low_lanes(a.hi));
  sums.quarter[3] = _mm256_add_pd(sums.quarter[3], high_lanes(a.hi));
}
GORGON_INLINE void add_product(LaneSums& sums, F32x16 a, F32x16 b) {
  sums.quarter[0] = _mm256_add_pd(sums.quarter[0], _mm256_mul_pd(low_lanes(a.lo), low_lanes(b.lo)));
  sums.quarter[1] = _mm256_add_pd(sums.quarter[1], _mm256_mul_pd(high_lanes(a.lo), high_lanes(b.lo)));
  sums.quarter[2] = _mm256_add_pd(sums.quarter[2], _mm256_mul_pd(low_lanes(a.hi), low_lanes(b.hi)));
  sums.quarter[3] = _mm256_add_pd(sums.quarter[3], _mm256_mul_pd(high_lanes(a.hi), high_lanes(b.hi)));
}

#else

struct LaneSums {
  double lane[kLanes] = {};
};
GORGON_INLINE void store(double* p, const LaneSums& sums) { std::memcpy(p, sums.lane, sizeof sums.lane); }
GORGON_INLINE void add(LaneSums& sums, F32x16 a) {
  for (int i = 0; i < kLanes; ++i) sums.lane[i] += static_cast<double>(a.v[i]);
}
GORGON_INLINE void add_product(LaneSums& sums, F32x16 a, F32x16 b) {
  for (int i = 0; i < kLanes; ++i) sums.lane[i] += static_cast<double>(a.v[i]) * static_cast<double>(b.v[i]);
}

#endif

/** Sum of the lanes, halves added first, as reduce_sum(F32x16). */
GORGON_INLINE double reduce_sum(const LaneSums& sums) {
  double lane[kLanes];
  store(lane, sums);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  }
  return lane[0];
}

}  // namespace gorgon::GORGON_ISA

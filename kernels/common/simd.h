// F32x16: sixteen f32 lanes with one meaning on every instruction set, so that an operation is written once and gives the same bits
// everywhere. One zmm register with AVX-512, two ymm with AVX2 and FMA, a plain array otherwise.
//
// Every function is exactly rounded or built from exactly rounded ones in a fixed order; nothing is contracted or reassociated
// (-ffp-contract=off). Subnormals are flushed by the caller's thread state (FlushSubnormals in parallel.h), as AMX does.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/dtype.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define GORGON_SIMD_AVX512 1
#include <immintrin.h>
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define GORGON_SIMD_AVX2 1
#include <immintrin.h>
#endif

#if defined(GORGON_EMULATE_AMX_HERE) || (defined(__AMX_TILE__) && defined(__AMX_BF16__))
#define GORGON_SIMD_AMX 1
#endif

#ifndef GORGON_ISA
#error "simd.h belongs to files compiled once per instruction set (GORGON_ISA)"
#endif

namespace gorgon::GORGON_ISA {

#define GORGON_INLINE static inline __attribute__((always_inline))

constexpr int kLanes = 16;

#if GORGON_SIMD_AVX512

struct F32x16 {
  __m512 v;
};
GORGON_INLINE F32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
GORGON_INLINE void store(float* p, F32x16 a) { _mm512_storeu_ps(p, a.v); }
GORGON_INLINE F32x16 broadcast(float x) { return {_mm512_set1_ps(x)}; }
GORGON_INLINE F32x16 operator+(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
GORGON_INLINE F32x16 operator-(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
GORGON_INLINE F32x16 operator*(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
GORGON_INLINE F32x16 operator/(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
/** a * b + c, rounded once. */
GORGON_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
/** Rounded once, as everything above. */
GORGON_INLINE F32x16 sqrt(F32x16 a) { return {_mm512_sqrt_ps(a.v)}; }
/** The larger; b where either is NaN. */
GORGON_INLINE F32x16 max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
/** 2^n for integral n in [-126, 127]. */
GORGON_INLINE F32x16 exp2_integral(F32x16 n) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127)), 23))};
}
/** a where x < limit, else b; b where x is NaN. */
GORGON_INLINE F32x16 select_below(F32x16 x, float limit, F32x16 a, F32x16 b) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.v, _mm512_set1_ps(limit), _CMP_NLT_UQ), a.v, b.v)};
}
GORGON_INLINE __m256 low_half(F32x16 a) { return _mm512_castps512_ps256(a.v); }
GORGON_INLINE __m256 high_half(F32x16 a) { return _mm512_extractf32x8_ps(a.v, 1); }
/** Lanes [0, n) of a, `fill` in the others. */
GORGON_INLINE F32x16 first_lanes(F32x16 a, int n, float fill) {
  const __mmask16 mask = n >= 16 ? 0xffff : n <= 0 ? 0 : static_cast<__mmask16>((1u << n) - 1u);
  return {_mm512_mask_blend_ps(mask, _mm512_set1_ps(fill), a.v)};
}
/** Nearest bf16 value, ties to even; of a NaN, one that bf16 has. */
GORGON_INLINE F32x16 round_bf16(F32x16 a) {
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_and_si512(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))),
                                           _mm512_set1_epi32(static_cast<int>(0xffff0000u)));
  const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  return {_mm512_castsi512_ps(_mm512_mask_blend_epi32(nan, rounded, _mm512_set1_epi32(0x7fc00000)))};
}
/** 16 pairs of neighbours: even elements to `even`, odd ones to `odd`. */
GORGON_INLINE void load_bf16_pairs(const void* p, F32x16& even, F32x16& odd) {
  const __m512i bits = _mm512_loadu_si512(p);
  even.v = _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
  odd.v = _mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}
GORGON_INLINE void load_f16_pairs(const void* p, F32x16& even, F32x16& odd) {
  const __m512i bits = _mm512_loadu_si512(p);
  even.v = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(bits));
  odd.v = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
}
/** 16 whole numbers of 8 bits. */
GORGON_INLINE F32x16 load_int8(const void* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))))};
}

#elif GORGON_SIMD_AVX2

struct F32x16 {
  __m256 lo, hi;
};
GORGON_INLINE F32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
GORGON_INLINE void store(float* p, F32x16 a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
GORGON_INLINE F32x16 broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
GORGON_INLINE F32x16 operator+(F32x16 a, F32x16 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
GORGON_INLINE F32x16 operator-(F32x16 a, F32x16 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
GORGON_INLINE F32x16 operator*(F32x16 a, F32x16 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
GORGON_INLINE F32x16 operator/(F32x16 a, F32x16 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
GORGON_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
GORGON_INLINE F32x16 sqrt(F32x16 a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
GORGON_INLINE F32x16 max(F32x16 a, F32x16 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
GORGON_INLINE __m256 exp2_integral_half(__m256 n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
GORGON_INLINE F32x16 exp2_integral(F32x16 n) { return {exp2_integral_half(n.lo), exp2_integral_half(n.hi)}; }
GORGON_INLINE F32x16 select_below(F32x16 x, float limit, F32x16 a, F32x16 b) {
  const __m256 bound = _mm256_set1_ps(limit);
  return {_mm256_blendv_ps(a.lo, b.lo, _mm256_cmp_ps(x.lo, bound, _CMP_NLT_UQ)),
          _mm256_blendv_ps(a.hi, b.hi, _mm256_cmp_ps(x.hi, bound, _CMP_NLT_UQ))};
}
GORGON_INLINE __m256 low_half(F32x16 a) { return a.lo; }
GORGON_INLINE __m256 high_half(F32x16 a) { return a.hi; }
GORGON_INLINE F32x16 first_lanes(F32x16 a, int n, float fill) {
  const __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256 keep_lo = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), index));
  const __m256 keep_hi = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n - 8), index));
  return {_mm256_blendv_ps(_mm256_set1_ps(fill), a.lo, keep_lo), _mm256_blendv_ps(_mm256_set1_ps(fill), a.hi, keep_hi)};
}
GORGON_INLINE __m256 round_bf16_half(__m256 a) {
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_and_si256(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))),
                                           _mm256_set1_epi32(static_cast<int>(0xffff0000u)));
  const __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000));
  return _mm256_blendv_ps(_mm256_castsi256_ps(rounded), nan, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
}
GORGON_INLINE F32x16 round_bf16(F32x16 a) { return {round_bf16_half(a.lo), round_bf16_half(a.hi)}; }
GORGON_INLINE void load_bf16_pairs(const void* p, F32x16& even, F32x16& odd) {
  const __m256i lo = _mm256_loadu_si256(static_cast<const __m256i*>(p));
  const __m256i hi = _mm256_loadu_si256(static_cast<const __m256i*>(p) + 1);
  const __m256i high_half = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  even = {_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
  odd = {_mm256_castsi256_ps(_mm256_and_si256(lo, high_half)), _mm256_castsi256_ps(_mm256_and_si256(hi, high_half))};
}
/** The low halves of eight 32-bit lanes, as f16, to f32. */
GORGON_INLINE __m256 f16_low_halves(__m256i bits) {
  const __m256i packed = _mm256_packus_epi32(_mm256_and_si256(bits, _mm256_set1_epi32(0xffff)), _mm256_setzero_si256());
  return _mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08)));
}
GORGON_INLINE void load_f16_pairs(const void* p, F32x16& even, F32x16& odd) {
  const __m256i lo = _mm256_loadu_si256(static_cast<const __m256i*>(p));
  const __m256i hi = _mm256_loadu_si256(static_cast<const __m256i*>(p) + 1);
  even = {f16_low_halves(lo), f16_low_halves(hi)};
  odd = {f16_low_halves(_mm256_srli_epi32(lo, 16)), f16_low_halves(_mm256_srli_epi32(hi, 16))};
}
GORGON_INLINE F32x16 load_int8(const void* p) {
  const __m128i bytes = _mm_loadu_si128(static_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}

#else

struct F32x16 {
  float v[16];
};
GORGON_INLINE F32x16 load(const float* p) {
  F32x16 r;
  std::memcpy(r.v, p, sizeof r.v);
  return r;
}
GORGON_INLINE void store(float* p, F32x16 a) { std::memcpy(p, a.v, sizeof a.v); }
#define GORGON_LANEWISE(expression) \
  F32x16 r;                         \
  for (int i = 0; i < kLanes; ++i) r.v[i] = (expression); \
  return r
GORGON_INLINE F32x16 broadcast(float x) { GORGON_LANEWISE(x); }
GORGON_INLINE F32x16 operator+(F32x16 a, F32x16 b) { GORGON_LANEWISE(a.v[i] + b.v[i]); }
GORGON_INLINE F32x16 operator-(F32x16 a, F32x16 b) { GORGON_LANEWISE(a.v[i] - b.v[i]); }
GORGON_INLINE F32x16 operator*(F32x16 a, F32x16 b) { GORGON_LANEWISE(a.v[i] * b.v[i]); }
GORGON_INLINE F32x16 operator/(F32x16 a, F32x16 b) { GORGON_LANEWISE(a.v[i] / b.v[i]); }
GORGON_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { GORGON_LANEWISE(std::fmaf(a.v[i], b.v[i], c.v[i])); }
GORGON_INLINE F32x16 sqrt(F32x16 a) { GORGON_LANEWISE(std::sqrt(a.v[i])); }
GORGON_INLINE F32x16 max(F32x16 a, F32x16 b) { GORGON_LANEWISE(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
GORGON_INLINE F32x16 exp2_integral(F32x16 n) {
  GORGON_LANEWISE(n.v[i] != n.v[i] ? n.v[i] : bits_float(static_cast<uint32_t>(static_cast<int32_t>(n.v[i]) + 127) << 23));
}
GORGON_INLINE F32x16 select_below(F32x16 x, float limit, F32x16 a, F32x16 b) {
  GORGON_LANEWISE(x.v[i] < limit ? a.v[i] : b.v[i]);
}
GORGON_INLINE F32x16 first_lanes(F32x16 a, int n, float fill) { GORGON_LANEWISE(i < n ? a.v[i] : fill); }
GORGON_INLINE F32x16 round_bf16(F32x16 a) {
  GORGON_LANEWISE(bf16_to_f32(f32_to_bf16(a.v[i])));
}
GORGON_INLINE void load_bf16_pairs(const void* p, F32x16& even, F32x16& odd) {
  for (int i = 0; i < kLanes; ++i) {
    even.v[i] = load_element(DType::kBf16, p, 2 * i);
    odd.v[i] = load_element(DType::kBf16, p, 2 * i + 1);
  }
}
GORGON_INLINE void load_f16_pairs(const void* p, F32x16& even, F32x16& odd) {
  for (int i = 0; i < kLanes; ++i) {
    even.v[i] = load_element(DType::kF16, p, 2 * i);
    odd.v[i] = load_element(DType::kF16, p, 2 * i + 1);
  }
}
GORGON_INLINE F32x16 load_int8(const void* p) { GORGON_LANEWISE(static_cast<float>(static_cast<const int8_t*>(p)[i])); }
#undef GORGON_LANEWISE

#endif

GORGON_INLINE F32x16 zero() { return broadcast(0.0f); }

/** Thirty-two bf16 values, already such, to 64 bytes. */
GORGON_INLINE void store_bf16_line(void* to, F32x16 low, F32x16 high) {
#if GORGON_SIMD_AVX512
  alignas(64) static constexpr uint16_t kUpperHalves[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                                            33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  _mm512_storeu_si512(to, _mm512_permutex2var_epi16(_mm512_castps_si512(low.v), _mm512_load_si512(kUpperHalves), _mm512_castps_si512(high.v)));
#else
  float lanes[2 * kLanes];
  store(lanes, low);
  store(lanes + kLanes, high);
  for (int i = 0; i < 2 * kLanes; ++i) store_element(DType::kBf16, to, i, lanes[i]);
#endif
}

/** Sixteen pairs of bf16 values, already such, to 64 bytes: the inverse of load_bf16_pairs. */
GORGON_INLINE void store_bf16_pairs(void* to, F32x16 even, F32x16 odd) {
#if GORGON_SIMD_AVX512
  _mm512_storeu_si512(to, _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(even.v), 16), _mm512_castps_si512(odd.v)));
#elif GORGON_SIMD_AVX2
  const auto pairs = [](__m256 low, __m256 high) {
    return _mm256_or_si256(_mm256_srli_epi32(_mm256_castps_si256(low), 16), _mm256_castps_si256(high));
  };
  _mm256_storeu_si256(static_cast<__m256i*>(to), pairs(even.lo, odd.lo));
  _mm256_storeu_si256(static_cast<__m256i*>(to) + 1, pairs(even.hi, odd.hi));
#else
  float lanes[2][kLanes];
  store(lanes[0], even);
  store(lanes[1], odd);
  for (int i = 0; i < 2 * kLanes; ++i) store_element(DType::kBf16, to, i, lanes[i % 2][i / 2]);
#endif
}

/** Sixteen pairs, rounded to f16 (to nearest, ties to even), to 64 bytes: the inverse of load_f16_pairs. */
GORGON_INLINE void store_f16_pairs(void* to, F32x16 even, F32x16 odd) {
#if GORGON_SIMD_AVX512
  const auto rounded = [](F32x16 a) { return _mm512_cvtepu16_epi32(_mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT)); };
  _mm512_storeu_si512(to, _mm512_or_si512(rounded(even), _mm512_slli_epi32(rounded(odd), 16)));
#elif GORGON_SIMD_AVX2
  const auto pairs = [](__m256 low, __m256 high) {
    const auto rounded = [](__m256 a) { return _mm256_cvtepu16_epi32(_mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT)); };
    return _mm256_or_si256(rounded(low), _mm256_slli_epi32(rounded(high), 16));
  };
  _mm256_storeu_si256(static_cast<__m256i*>(to), pairs(even.lo, odd.lo));
  _mm256_storeu_si256(static_cast<__m256i*>(to) + 1, pairs(even.hi, odd.hi));
#else
  float lanes[2][kLanes];
  store(lanes[0], even);
  store(lanes[1], odd);
  for (int i = 0; i < 2 * kLanes; ++i) store_element(DType::kF16, to, i, lanes[i % 2][i / 2]);
#endif
}

/** Sixteen lanes of `values`, or the first `count` of them and zeros. */
GORGON_INLINE F32x16 load_first(const float* values, int64_t count) {
  if (count >= kLanes) return load(values);
  alignas(64) float lanes[kLanes] = {};
  std::memcpy(lanes, values, count * sizeof(float));
  return load(lanes);
}

/** Stores the first `count` lanes, at most sixteen. */
GORGON_INLINE void store_first(float* values, F32x16 a, int64_t count) {
  if (count >= kLanes) return store(values, a);
  alignas(64) float lanes[kLanes];
  store(lanes, a);
  std::memcpy(values, lanes, count * sizeof(float));
}

/** Sum of the lanes, halves added first: ((0+8)+(4+12)) + …, the same tree everywhere. */
GORGON_INLINE float reduce_sum(F32x16 a) {
#if GORGON_SIMD_AVX512 || GORGON_SIMD_AVX2
  const __m256 eight = _mm256_add_ps(low_half(a), high_half(a));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
  float lane[kLanes];
  store(lane, a);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  }
  return lane[0];
#endif
}

GORGON_INLINE float reduce_max(F32x16 a) {
#if GORGON_SIMD_AVX512 || GORGON_SIMD_AVX2
  const __m256 eight = _mm256_max_ps(low_half(a), high_half(a));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
#else
  float lane[kLanes];
  store(lane, a);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lane[i] = lane[i] > lane[i + width] ? lane[i] : lane[i + width];
  }
  return lane[0];
#endif
}

/**
 * e^x for x in [-87.3, 88.3] or NaN, which stays NaN.
 * x = n ln 2 + r with |r| <= ln 2 / 2; e^r by its Taylor polynomial of degree 7; 2^n by the exponent field.
 */
GORGON_INLINE F32x16 exp_in_range(F32x16 x) {
  // Adding 1.5 * 2^23 leaves no fraction bits: round to nearest even without an instruction for it.
  const F32x16 shifter = broadcast(12582912.0f);
  const F32x16 n = fma(x, broadcast(1.44269504088896341f), shifter) - shifter;
  F32x16 r = fma(n, broadcast(-0.693359375f), x);               // ln 2, high part: exact for |n| < 2^9
  r = fma(n, broadcast(2.12194440e-4f), r);                     // ln 2, low part
  F32x16 p = broadcast(1.0f / 5040.0f);
  p = fma(p, r, broadcast(1.0f / 720.0f));
  p = fma(p, r, broadcast(1.0f / 120.0f));
  p = fma(p, r, broadcast(1.0f / 24.0f));
  p = fma(p, r, broadcast(1.0f / 6.0f));
  p = fma(p, r, broadcast(0.5f));
  p = fma(p, r, broadcast(1.0f));
  p = fma(p, r, broadcast(1.0f));
  return p * exp2_integral(n);
}

constexpr float kLowestExponent = -87.3f, kHighestExponent = 88.3f;

/** e^x, error below 2 ulp on [-87.3, 88.3]; 0 below (also for -infinity), saturating at e^88.3 above; NaN stays NaN. */
GORGON_INLINE F32x16 exp(F32x16 x) {
  F32x16 clamped = max(broadcast(kLowestExponent), x);  // in this form, and the next, NaN comes through
  clamped = select_below(zero() - clamped, -kHighestExponent, broadcast(kHighestExponent), clamped);
  return select_below(x, kLowestExponent, zero(), exp_in_range(clamped));
}

/** The same for x that is not above zero: the weights of a softmax. */
GORGON_INLINE F32x16 exp_of_nonpositive(F32x16 x) {
  return select_below(x, kLowestExponent, zero(), exp_in_range(max(broadcast(kLowestExponent), x)));
}

/** e^x of one value: the same bits as a lane of exp(F32x16). */
GORGON_INLINE float exp1(float x) {
  float lane[kLanes];
  store(lane, exp(broadcast(x)));
  return lane[0];
}

}  // namespace gorgon::GORGON_ISA

// Element types of weights and caches: names, sizes, conversions of single values.
#pragma once

#include <cstdint>
#include <cstring>

namespace gorgon {

/** int8 is of packed weights alone, whose columns have a scale each (packed.h): files, caches and activations never have it. */
enum class DType : int32_t { kF32, kF16, kBf16, kInt8 };

// Helpers here have internal linkage: files compiled for different instruction sets must not share one copy.

constexpr int64_t dtype_size(DType dtype) { return dtype == DType::kF32 ? 4 : dtype == DType::kInt8 ? 1 : 2; }

static inline const char* dtype_name(DType dtype) {
  return dtype == DType::kF32 ? "f32" : dtype == DType::kF16 ? "f16" : dtype == DType::kBf16 ? "bf16" : "int8";
}

static inline uint32_t float_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

static inline float bits_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

static inline float bf16_to_f32(uint16_t bits) { return bits_float(static_cast<uint32_t>(bits) << 16); }

/** Nearest, ties to even; NaN stays NaN. */
static inline uint16_t f32_to_bf16(float value) {
  const uint32_t bits = float_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline float f16_to_f32(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0x1fu) return bits_float(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0) return bits_float(sign | ((exponent + 112u) << 23) | (mantissa << 13));
  if (mantissa == 0) return bits_float(sign);
  uint32_t shift = 0;
  while ((mantissa & 0x400u) == 0) {
    mantissa <<= 1;
    ++shift;
  }
  return bits_float(sign | ((113u - shift) << 23) | ((mantissa & 0x3ffu) << 13));
}

/** Nearest, ties to even; too large becomes infinity. */
static inline uint16_t f32_to_f16(float value) {
  const uint32_t bits = float_bits(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {  // subnormal: the value counted in units of 2^-24
    const int shift = 126 - static_cast<int>(magnitude >> 23);
    if (shift > 24) return static_cast<uint16_t>(sign);
    const uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    const uint32_t kept = mantissa >> shift;
    const uint32_t rest = mantissa & ((1u << shift) - 1u);
    const uint32_t half = 1u << (shift - 1);
    return static_cast<uint16_t>(sign | (kept + ((rest > half || (rest == half && (kept & 1u))) ? 1u : 0u)));
  }
  const uint32_t rebased = magnitude - 0x38000000u;
  return static_cast<uint16_t>(sign | ((rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13));
}

/** Value of element `index` of an array of `dtype`, which is not int8. */
static inline float load_element(DType dtype, const void* data, int64_t index) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, static_cast<const char*>(data) + index * 4, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, static_cast<const char*>(data) + index * 2, 2);
  return dtype == DType::kBf16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

/** Rounds `value` to `dtype`, which is not int8, and stores it as element `index`. */
static inline void store_element(DType dtype, void* data, int64_t index, float value) {
  if (dtype == DType::kF32) {
    std::memcpy(static_cast<char*>(data) + index * 4, &value, 4);
    return;
  }
  const uint16_t bits = dtype == DType::kBf16 ? f32_to_bf16(value) : f32_to_f16(value);
  std::memcpy(static_cast<char*>(data) + index * 2, &bits, 2);
}

}  // namespace gorgon

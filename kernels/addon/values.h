// JavaScript values to C++ and back: every read is checked, since what arrives here may be anything.
#pragma once

#include <napi.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "addon/errors.h"
#include "common/aligned_buffer.h"
#include "common/dtype.h"

namespace gorgon {

[[noreturn]] inline void throw_argument(Napi::Env env, const std::string& what) {
  throw to_error(env, {StatusCode::kArgument, what});
}

inline Napi::Object read_object(const Napi::Value& value, const char* what) {
  if (!value.IsObject()) throw_argument(value.Env(), std::string(what) + " is not an object");
  return value.As<Napi::Object>();
}

inline double read_number(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  if (!value.IsNumber()) throw_argument(object.Env(), std::string(name) + " is not a number");
  return value.As<Napi::Number>().DoubleValue();
}

/** A finite number that a float can hold. */
inline float read_float(const Napi::Object& object, const char* name) {
  const double value = read_number(object, name);
  if (!(std::fabs(value) <= std::numeric_limits<float>::max())) throw_argument(object.Env(), std::string(name) + " is not a finite number");
  return static_cast<float>(value);
}

/** A whole number that fits an int64 exactly. */
inline int64_t to_integer(const Napi::Value& value, const char* what) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : std::numeric_limits<double>::quiet_NaN();
  if (!(std::fabs(number) <= 9007199254740991.0) || number != std::trunc(number)) {
    throw_argument(value.Env(), std::string(what) + " is not a whole number");
  }
  return static_cast<int64_t>(number);
}

inline int64_t read_integer(const Napi::Object& object, const char* name) { return to_integer(object.Get(name), name); }

/** A whole number in [low, high]. */
inline int64_t read_integer(const Napi::Object& object, const char* name, int64_t low, int64_t high) {
  const int64_t value = read_integer(object, name);
  if (value < low || value > high) {
    throw_argument(object.Env(), std::string(name) + " is " + std::to_string(value) + ", not in [" + std::to_string(low) + ", " +
                                     std::to_string(high) + "]");
  }
  return value;
}

inline bool read_bool(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  if (!value.IsBoolean()) throw_argument(object.Env(), std::string(name) + " is not a boolean");
  return value.As<Napi::Boolean>().Value();
}

inline std::string read_string(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  if (!value.IsString()) throw_argument(object.Env(), std::string(name) + " is not a string");
  return value.As<Napi::String>().Utf8Value();
}

template <class T>
struct ArrayKind;
template <>
struct ArrayKind<int32_t> {
  static constexpr napi_typedarray_type kType = napi_int32_array;
  static constexpr const char* kName = "Int32Array";
};
template <>
struct ArrayKind<float> {
  static constexpr napi_typedarray_type kType = napi_float32_array;
  static constexpr const char* kName = "Float32Array";
};
template <>
struct ArrayKind<uint8_t> {
  static constexpr napi_typedarray_type kType = napi_uint8_array;
  static constexpr const char* kName = "Uint8Array";
};
template <>
struct ArrayKind<double> {
  static constexpr napi_typedarray_type kType = napi_float64_array;
  static constexpr const char* kName = "Float64Array";
};

/** The bytes of a typed array where they are. */
template <class T>
T* read_data(const Napi::Value& value, const char* what, size_t* length) {
  bool is_array = false;
  napi_is_typedarray(value.Env(), value, &is_array);
  if (is_array) {
    napi_typedarray_type type;
    void* data = nullptr;
    if (napi_get_typedarray_info(value.Env(), value, &type, length, &data, nullptr, nullptr) == napi_ok && type == ArrayKind<T>::kType) {
      return static_cast<T*>(data);
    }
  }
  throw_argument(value.Env(), std::string(what) + " is not an " + ArrayKind<T>::kName);
}

/** A copy of a typed array. */
template <class T>
std::vector<T> read_array(const Napi::Object& object, const char* name) {
  size_t length = 0;
  const T* data = read_data<T>(object.Get(name), name, &length);
  return length == 0 ? std::vector<T>() : std::vector<T>(data, data + length);
}

template <class T>
Napi::Value write_array(Napi::Env env, const std::vector<T>& values) {
  auto array = Napi::TypedArrayOf<T>::New(env, values.size());
  if (!values.empty()) std::memcpy(array.Data(), values.data(), values.size() * sizeof(T));
  return array;
}

/** Who makes an ArrayBuffer of memory that is not JavaScript's. */
using MakeExternal = decltype(&napi_create_external_arraybuffer);

/**
 * A Uint8Array of the memory itself: of a text's rows are many megabytes, and copying them would hold up JavaScript. Where V8 keeps its memory
 * in a sandbox it allows no other, and the array is a copy.
 */
inline Napi::Value write_memory(Napi::Env env, AlignedBuffer memory, MakeExternal make = napi_create_external_arraybuffer) {
  const auto bytes = static_cast<size_t>(memory.bytes());
  if (bytes == 0) return Napi::Uint8Array::New(env, 0);
  napi_value buffer = nullptr;
  const napi_status status = make(env, memory.data(), bytes, [](napi_env, void* data, void*) { std::free(data); }, nullptr, &buffer);
  if (status == napi_no_external_buffers_allowed) {
    auto copy = Napi::Uint8Array::New(env, bytes);
    std::memcpy(copy.Data(), memory.data(), bytes);
    return copy;
  }
  if (status != napi_ok) throw Napi::Error::New(env);
  memory.take();
  return Napi::Uint8Array::New(env, bytes, Napi::ArrayBuffer(env, buffer), 0);
}

/** An array of what `write` makes of each item. */
template <class Items, class Write>
Napi::Value write_list(Napi::Env env, const Items& items, const Write& write) {
  auto list = Napi::Array::New(env, items.size());
  for (size_t i = 0; i < items.size(); ++i) list.Set(static_cast<uint32_t>(i), write(items[i]));
  return list;
}

inline DType read_dtype(Napi::Env env, const std::string& name) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBf16}) {
    if (name == dtype_name(dtype)) return dtype;
  }
  throw to_error(env, {StatusCode::kDtype, "dtype \"" + name + "\" is not one of f32, f16, bf16"});
}

/** Of a packed weight. */
inline DType read_packed_dtype(Napi::Env env, const std::string& name) {
  return name == dtype_name(DType::kInt8) ? DType::kInt8 : read_dtype(env, name);
}

}  // namespace gorgon

// The exported phases; see Native in src/native.ts.
#pragma once

#include <napi.h>

#include <optional>

#include "runtime/compression.h"

namespace gorgon {

Napi::Value list_backends(const Napi::CallbackInfo& info);
Napi::Value open_model_async(const Napi::CallbackInfo& info);
Napi::Value model_info(const Napi::CallbackInfo& info);
Napi::Value open_session(const Napi::CallbackInfo& info);
Napi::Value begin_prefill(const Napi::CallbackInfo& info);
Napi::Value assume_prefill(const Napi::CallbackInfo& info);
Napi::Value prefill(const Napi::CallbackInfo& info);
Napi::Value verify(const Napi::CallbackInfo& info);
Napi::Value commit(const Napi::CallbackInfo& info);
Napi::Value session_info(const Napi::CallbackInfo& info);

/** A CompressionSpec of src/native.ts; none of null. */
std::optional<CompressionSpec> read_compression(const Napi::Value& value);

}  // namespace gorgon

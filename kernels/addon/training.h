// The exported calls of training; see NativeTraining in src/native-training.ts.
#pragma once

#include <napi.h>

namespace gorgon {

Napi::Value open_trainer(const Napi::CallbackInfo& info);
Napi::Value trainer_info(const Napi::CallbackInfo& info);
Napi::Value hidden_rows(const Napi::CallbackInfo& info);
Napi::Value score(const Napi::CallbackInfo& info);
Napi::Value accumulate(const Napi::CallbackInfo& info);
Napi::Value update(const Napi::CallbackInfo& info);
Napi::Value read_weights(const Napi::CallbackInfo& info);
Napi::Value write_weights(const Napi::CallbackInfo& info);

}  // namespace gorgon

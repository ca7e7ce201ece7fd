// The list of exports and nothing else.
#include <napi.h>

#include "addon/errors.h"
#include "addon/handles.h"
#include "addon/ops.h"
#include "addon/phases.h"

namespace gorgon {

using Export = Napi::Value (*)(const Napi::CallbackInfo&);

template <Export body>
static Napi::Value throwing(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] { return body(info); });
}

template <Export body>
static Napi::Value rejecting(const Napi::CallbackInfo& info) {
  return promised(info.Env(), [&] { return body(info); });
}

static Napi::Object init(Napi::Env env, Napi::Object exports) {
  exports.Set("backends", Napi::Function::New<throwing<list_backends>>(env, "backends"));
  exports.Set("openModel", Napi::Function::New<rejecting<open_model_async>>(env, "openModel"));
  exports.Set("modelInfo", Napi::Function::New<throwing<model_info>>(env, "modelInfo"));
  exports.Set("openSession", Napi::Function::New<throwing<open_session>>(env, "openSession"));
  exports.Set("beginPrefill", Napi::Function::New<throwing<begin_prefill>>(env, "beginPrefill"));
  exports.Set("assumePrefill", Napi::Function::New<rejecting<assume_prefill>>(env, "assumePrefill"));
  exports.Set("prefill", Napi::Function::New<rejecting<prefill>>(env, "prefill"));
  exports.Set("verify", Napi::Function::New<rejecting<verify>>(env, "verify"));
  exports.Set("commit", Napi::Function::New<rejecting<commit>>(env, "commit"));
  exports.Set("sessionInfo", Napi::Function::New<throwing<session_info>>(env, "sessionInfo"));
  exports.Set("close", Napi::Function::New<rejecting<close_handle>>(env, "close"));
  exports.Set("ops", export_ops(env));
  return exports;
}

}  // namespace gorgon

using gorgon::init;
NODE_API_MODULE(gorgon, init)

// The list of exports and nothing else.
#include <napi.h>

#include "addon/handles.h"
#include "addon/ops.h"
#include "addon/phases.h"

namespace gorgon {

static Napi::Object init(Napi::Env env, Napi::Object exports) {
  exports.Set("backends", Napi::Function::New(env, list_backends, "backends"));
  exports.Set("openModel", Napi::Function::New(env, open_model_async, "openModel"));
  exports.Set("modelInfo", Napi::Function::New(env, model_info, "modelInfo"));
  exports.Set("openSession", Napi::Function::New(env, open_session, "openSession"));
  exports.Set("beginPrefill", Napi::Function::New(env, begin_prefill, "beginPrefill"));
  exports.Set("prefill", Napi::Function::New(env, prefill, "prefill"));
  exports.Set("verify", Napi::Function::New(env, verify, "verify"));
  exports.Set("commit", Napi::Function::New(env, commit, "commit"));
  exports.Set("sessionInfo", Napi::Function::New(env, session_info, "sessionInfo"));
  exports.Set("close", Napi::Function::New(env, close_handle, "close"));
  exports.Set("ops", export_ops(env));
  return exports;
}

}  // namespace gorgon

using gorgon::init;
NODE_API_MODULE(gorgon, init)

// The list of exports and nothing else.
#include <napi.h>

#include "addon/errors.h"
#include "addon/handles.h"
#include "addon/ops.h"
#include "addon/phases.h"
#include "addon/training.h"

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

static Napi::Object init_training(Napi::Env env) {
  auto exports = Napi::Object::New(env);
  exports.Set("openTrainer", Napi::Function::New<rejecting<open_trainer>>(env, "openTrainer"));
  exports.Set("trainerInfo", Napi::Function::New<throwing<trainer_info>>(env, "trainerInfo"));
  exports.Set("hiddenRows", Napi::Function::New<rejecting<hidden_rows>>(env, "hiddenRows"));
  exports.Set("score", Napi::Function::New<rejecting<score>>(env, "score"));
  exports.Set("accumulate", Napi::Function::New<rejecting<accumulate>>(env, "accumulate"));
  exports.Set("update", Napi::Function::New<rejecting<update>>(env, "update"));
  exports.Set("read", Napi::Function::New<rejecting<read_weights>>(env, "read"));
  exports.Set("write", Napi::Function::New<rejecting<write_weights>>(env, "write"));
  exports.Set("closeTrainer", Napi::Function::New<rejecting<close_trainer>>(env, "closeTrainer"));
  return exports;
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
  exports.Set("training", init_training(env));
  exports.Set("ops", export_ops(env));
  return exports;
}

}  // namespace gorgon

using gorgon::init;
NODE_API_MODULE(gorgon, init)

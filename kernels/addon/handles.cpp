// Wrapping, tagging and closing of handles.
#include "addon/handles.h"

#include "addon/errors.h"

namespace gorgon {

namespace {

constexpr napi_type_tag kModelTag = {0x9d3f6a2c41b84e07ull, 0xa5e1c07f2b964d38ull};
constexpr napi_type_tag kSessionTag = {0x27b8e4f15ac34d90ull, 0x8c6d1e93f0a25b47ull};
constexpr napi_type_tag kTrainerTag = {0x61c0a7d38e5f4b12ull, 0xb3f92e5d07c84a6bull};

template <class T>
Napi::Value wrap(Napi::Env env, std::shared_ptr<T> owner, const napi_type_tag& tag) {
  auto handle = std::make_shared<Handle<T>>();
  handle->owner = std::move(owner);
  using Holder = std::shared_ptr<Handle<T>>;
  auto holder = std::make_unique<Holder>(std::move(handle));
  auto value = Napi::External<Holder>::New(env, holder.get(), [](Napi::Env, Holder* held) { delete held; });
  holder.release();  // not before: where the environment is being torn down, there is no value to hold it
  value.TypeTag(&tag);
  return value;
}

template <class T>
std::shared_ptr<Handle<T>> unwrap(const Napi::Value& value, const napi_type_tag& tag, const char* what) {
  if (value.IsExternal()) {
    const auto external = value.As<Napi::External<std::shared_ptr<Handle<T>>>>();
    if (external.CheckTypeTag(&tag)) return *external.Data();
  }
  throw to_error(value.Env(), {StatusCode::kArgument, std::string("a ") + what + " handle was expected"});
}

template <class T>
std::shared_ptr<Handle<T>> idle(const Napi::Value& value, const napi_type_tag& tag, const char* what) {
  auto handle = unwrap<T>(value, tag, what);
  if (handle->closed) throw to_error(value.Env(), {StatusCode::kClosed, std::string("the ") + what + " is closed"});
  if (handle->busy) throw to_error(value.Env(), {StatusCode::kBusy, std::string("the ") + what + " is running a call: one at a time"});
  return handle;
}

Napi::Value close_one(Napi::Env env, HandleState& handle) {
  auto deferred = Napi::Promise::Deferred::New(env);
  handle.closed = true;
  handle.closers.push_back(deferred);
  handle.settle();
  return deferred.Promise();
}

}  // namespace

void HandleState::settle() {
  if (!closed || busy) return;
  free_owner();
  for (const Napi::Promise::Deferred& closer : closers) closer.Resolve(closer.Env().Undefined());
  closers.clear();
}

Napi::Value wrap_model(Napi::Env env, std::shared_ptr<Model> model) { return wrap(env, std::move(model), kModelTag); }
Napi::Value wrap_session(Napi::Env env, std::shared_ptr<Session> session) { return wrap(env, std::move(session), kSessionTag); }
Napi::Value wrap_trainer(Napi::Env env, std::shared_ptr<Trainer> trainer) { return wrap(env, std::move(trainer), kTrainerTag); }

std::shared_ptr<ModelHandle> unwrap_model(const Napi::Value& value) { return unwrap<Model>(value, kModelTag, "model"); }
std::shared_ptr<SessionHandle> unwrap_session(const Napi::Value& value) { return unwrap<Session>(value, kSessionTag, "session"); }

std::shared_ptr<ModelHandle> open_model(const Napi::Value& value) {
  auto handle = unwrap_model(value);
  if (handle->closed) throw to_error(value.Env(), {StatusCode::kClosed, "the model is closed"});
  return handle;
}

std::shared_ptr<SessionHandle> idle_session(const Napi::Value& value) { return idle<Session>(value, kSessionTag, "session"); }
std::shared_ptr<TrainerHandle> idle_trainer(const Napi::Value& value) { return idle<Trainer>(value, kTrainerTag, "trainer"); }

Napi::Value close_handle(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (info[0].IsExternal()) {
    const auto external = info[0].As<Napi::External<void>>();
    if (external.CheckTypeTag(&kModelTag)) return close_one(env, *unwrap_model(info[0]));
    if (external.CheckTypeTag(&kSessionTag)) return close_one(env, *unwrap_session(info[0]));
  }
  throw to_error(env, {StatusCode::kArgument, "close takes a model or session handle"});
}

Napi::Value close_trainer(const Napi::CallbackInfo& info) { return close_one(info.Env(), *unwrap<Trainer>(info[0], kTrainerTag, "trainer")); }

}  // namespace gorgon

// Handles: what JavaScript holds of a model, a session or a trainer: an opaque, tagged value around a shared owner.
//
// A call in flight holds the owner too, so closing (or collecting) a handle while it runs frees nothing until it is done. All fields but the
// owner's own are touched by the JavaScript thread alone.
#pragma once

#include <napi.h>

#include <memory>
#include <vector>

#include "runtime/session.h"
#include "runtime/trainer.h"

namespace gorgon {

/** What handles of every kind have. */
struct HandleState {
  virtual ~HandleState() = default;
  bool busy = false;
  bool closed = false;
  /** Waiting for the running call. */
  std::vector<Napi::Promise::Deferred> closers;

  /** Frees the owner of a closed handle, and settles its closers, once nothing runs. */
  void settle();

 private:
  virtual void free_owner() = 0;
};

template <class T>
struct Handle : HandleState {
  /** Null once closed. */
  std::shared_ptr<T> owner;

 private:
  void free_owner() override { owner.reset(); }
};

using ModelHandle = Handle<Model>;
using SessionHandle = Handle<Session>;
using TrainerHandle = Handle<Trainer>;

Napi::Value wrap_model(Napi::Env env, std::shared_ptr<Model> model);
Napi::Value wrap_session(Napi::Env env, std::shared_ptr<Session> session);
Napi::Value wrap_trainer(Napi::Env env, std::shared_ptr<Trainer> trainer);

/** The handle, whether closed or not; throws ERR_ARGUMENT for anything else. */
std::shared_ptr<ModelHandle> unwrap_model(const Napi::Value& value);
std::shared_ptr<SessionHandle> unwrap_session(const Napi::Value& value);

/** As above; throws ERR_CLOSED or ERR_BUSY too. */
std::shared_ptr<ModelHandle> open_model(const Napi::Value& value);
std::shared_ptr<SessionHandle> idle_session(const Napi::Value& value);
std::shared_ptr<TrainerHandle> idle_trainer(const Napi::Value& value);

/** The exported close(handle), and closeTrainer(handle). */
Napi::Value close_handle(const Napi::CallbackInfo& info);
Napi::Value close_trainer(const Napi::CallbackInfo& info);

}  // namespace gorgon

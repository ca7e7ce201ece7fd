// Handles: what JavaScript holds of a model or a session: an opaque, tagged value around a shared owner.
//
// A call in flight holds the owner too, so closing (or collecting) a handle while it runs frees nothing until it is done. All fields but the
// owner's own are touched by the JavaScript thread alone.
#pragma once

#include <napi.h>

#include <memory>
#include <vector>

#include "runtime/session.h"

namespace gorgon {

template <class T>
struct Handle {
  /** Null once closed. */
  std::shared_ptr<T> owner;
  bool busy = false;
  bool closed = false;
  /** Waiting for the running call. */
  std::vector<Napi::Promise::Deferred> closers;

  /** Settles the closers once nothing runs. */
  void settle();
};

using ModelHandle = Handle<Model>;
using SessionHandle = Handle<Session>;

Napi::Value wrap_model(Napi::Env env, std::shared_ptr<Model> model);
Napi::Value wrap_session(Napi::Env env, std::shared_ptr<Session> session);

/** The handle, whether closed or not; throws ERR_ARGUMENT for anything else. */
std::shared_ptr<ModelHandle> unwrap_model(const Napi::Value& value);
std::shared_ptr<SessionHandle> unwrap_session(const Napi::Value& value);

/** As above; throws ERR_CLOSED or ERR_BUSY too. */
std::shared_ptr<ModelHandle> open_model(const Napi::Value& value);
std::shared_ptr<SessionHandle> idle_session(const Napi::Value& value);

/** The exported close(handle). */
Napi::Value close_handle(const Napi::CallbackInfo& info);

}  // namespace gorgon

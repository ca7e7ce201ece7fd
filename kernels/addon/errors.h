// Status to JavaScript error: an Error with the code of status.def.
#pragma once

#include <napi.h>

#include "common/status.h"

namespace gorgon {

Napi::Error to_error(Napi::Env env, const Status& status);

/** Throws the status as a JavaScript error unless it is OK. */
void throw_unless_ok(Napi::Env env, const Status& status);

/** The status of the C++ exception that is being caught. */
Status caught_status();

/** Runs an exported function's body: a C++ exception becomes a JavaScript one, never the end of the process. */
template <class Body>
Napi::Value guarded(Napi::Env env, const Body& body) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw to_error(env, caught_status());
  }
}

/** As an async function does: what would be thrown rejects the promise that is returned. */
template <class Body>
Napi::Value promised(Napi::Env env, const Body& body) {
  try {
    return guarded(env, body);
  } catch (const Napi::Error& error) {
    const auto deferred = Napi::Promise::Deferred::New(env);
    deferred.Reject(error.Value());
    return deferred.Promise();
  }
}

}  // namespace gorgon

// Status to JavaScript error: an Error with the code of status.def.
#pragma once

#include <napi.h>

#include "common/status.h"

namespace gorgon {

Napi::Error to_error(Napi::Env env, const Status& status);

/** Throws the status as a JavaScript error unless it is OK. */
void throw_unless_ok(Napi::Env env, const Status& status);

}  // namespace gorgon

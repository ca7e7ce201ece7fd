// Single operations, exported for test/ and bench/ only.
#pragma once

#include <napi.h>

namespace gorgon {

Napi::Object export_ops(Napi::Env env);

}  // namespace gorgon

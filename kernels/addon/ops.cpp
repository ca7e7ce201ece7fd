// Bindings of single operations: typed arrays in and out, run at once on the calling thread.
#include "addon/ops.h"

#include "addon/values.h"

namespace gorgon {

Napi::Object export_ops(Napi::Env env) { return Napi::Object::New(env); }

}  // namespace gorgon

// Error objects.
#include "addon/errors.h"

#include <new>
#include <stdexcept>

namespace gorgon {

Napi::Error to_error(Napi::Env env, const Status& status) {
  Napi::Error error = Napi::Error::New(env, status.message());
  error.Set("code", Napi::String::New(env, status_code_name(status.code())));
  return error;
}

void throw_unless_ok(Napi::Env env, const Status& status) {
  if (!status.ok()) throw to_error(env, status);
}

Status caught_status() {
  const char* const out_of_memory = "Out of memory. Use a smaller budget, fewer tokens or fewer sequences at once.";
  try {
    throw;
  } catch (const std::bad_alloc&) {
    return {StatusCode::kOutOfMemory, out_of_memory};
  } catch (const std::length_error&) {  // more elements than an address space holds
    return {StatusCode::kOutOfMemory, out_of_memory};
  } catch (const std::exception& error) {
    return {StatusCode::kInternal, std::string("this is a bug in gorgon, please report it: ") + error.what()};
  } catch (...) {
    return {StatusCode::kInternal, "this is a bug in gorgon, please report it: something unknown was thrown"};
  }
}

}  // namespace gorgon

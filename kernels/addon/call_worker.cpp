// Running a call, and answering it.
#include "addon/call_worker.h"

#include "addon/errors.h"
#include "common/parallel.h"

namespace gorgon {

CallWorker::CallWorker(Napi::Env env, const char* name, std::vector<std::shared_ptr<HandleState>> handles)
    : Napi::AsyncWorker(env, name), deferred_(Napi::Promise::Deferred::New(env)), handles_(std::move(handles)) {
  for (const auto& handle : handles_) handle->busy = true;
}

Napi::Promise CallWorker::start() {
  const Napi::Promise promise = deferred_.Promise();
  Queue();
  return promise;
}

Napi::Promise CallWorker::start_here() {
  const Napi::Promise promise = deferred_.Promise();
  Execute();
  OnOK();
  Destroy();
  return promise;
}

void CallWorker::Execute() {
  const FlushSubnormals flush;
  try {
    status_ = run();
  } catch (...) {
    status_ = caught_status();
  }
}

void CallWorker::OnOK() {
  const Napi::Env env = Env();
  const Napi::HandleScope scope(env);
  run = nullptr;  // it holds the owners, too: a handle that was closed meanwhile is freed before its close() says so
  for (const auto& handle : handles_) handle->busy = false;
  try {
    answer(env);
    for (const auto& handle : handles_) handle->settle();
  } catch (const Napi::Error&) {
    // The environment is being torn down, a worker thread that was terminated: there is nobody left to tell.
  }
}

void CallWorker::OnError(const Napi::Error& error) {
  status_ = {StatusCode::kOutOfMemory, error.Message()};
  OnOK();
}

void CallWorker::answer(Napi::Env env) {
  try {
    throw_unless_ok(env, status_);
    deferred_.Resolve(guarded(env, [&] { return result(env); }));
  } catch (const Napi::Error& error) {
    deferred_.Reject(error.Value());
  }
}

}  // namespace gorgon

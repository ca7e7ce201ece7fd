// CallWorker: a native call that runs beside JavaScript: its handles are busy until it is done, and its promise says how it ended.
#pragma once

#include <napi.h>

#include <functional>
#include <memory>
#include <vector>

#include "addon/handles.h"
#include "common/status.h"

namespace gorgon {

/** Runs on a worker thread, holding the owners it was given; settles its promise and frees its handles on the JavaScript thread. */
class CallWorker : public Napi::AsyncWorker {
 public:
  CallWorker(Napi::Env env, const char* name, std::vector<std::shared_ptr<HandleState>> handles);

  std::function<Status()> run;
  std::function<Napi::Value(Napi::Env)> result;

  Napi::Promise start();
  /** Here and now, for work that takes less time than to hand it to another thread and hear back. */
  Napi::Promise start_here();

 protected:
  void Execute() override;
  void OnOK() override;
  /** Execute found no memory even to say so. */
  void OnError(const Napi::Error& error) override;

 private:
  void answer(Napi::Env env);

  Napi::Promise::Deferred deferred_;
  std::vector<std::shared_ptr<HandleState>> handles_;
  Status status_;
};

}  // namespace gorgon

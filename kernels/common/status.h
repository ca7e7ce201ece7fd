// Status: the answer of everything that can fail, made from the table in status.def.
#pragma once

#include <string>
#include <utility>

namespace gorgon {

enum class StatusCode {
  kOk,
#define GORGON_STATUS(name, code, meaning) name,
#include "common/status.def"
#undef GORGON_STATUS
};

/** "ERR_…" of a code; "OK" for kOk. */
const char* status_code_name(StatusCode code);

/** A code and, when it is not kOk, a message: what happened, with which value, what to do. */
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

}  // namespace gorgon

/** Returns the status of `expression` from the enclosing function unless it is OK. */
#define GORGON_TRY(expression)                                    \
  do {                                                            \
    ::gorgon::Status gorgon_try_status = (expression);            \
    if (!gorgon_try_status.ok()) return gorgon_try_status;        \
  } while (false)

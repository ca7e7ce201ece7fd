// Names of the status codes.
#include "common/status.h"

namespace gorgon {

const char* status_code_name(StatusCode code) {
  switch (code) {
    case StatusCode::kOk:
      return "OK";
#define GORGON_STATUS(name, text, meaning) \
  case StatusCode::name:                   \
    return text;
#include "common/status.def"
#undef GORGON_STATUS
  }
  return "ERR_INTERNAL";
}

}  // namespace gorgon

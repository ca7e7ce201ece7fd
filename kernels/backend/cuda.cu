// The CUDA tables, and what there is to run them on.
#include "backend/cuda.h"

#include <cuda_runtime.h>

#include "common/cores.h"
#include "common/cuda_context.h"
#include "ops/adamw.h"
#include "ops/attention_votes.h"
#include "ops/causal_attention.h"
#include "ops/cross_entropy.h"
#include "ops/embed.h"
#include "ops/gated_linear.h"
#include "ops/kv_gather.h"
#include "ops/linear.h"
#include "ops/linear_gradient.h"
#include "ops/medusa_heads.h"
#include "ops/pack_cuda.h"
#include "ops/pack_weight.h"
#include "ops/posterior.h"
#include "ops/residual_silu.h"
#include "ops/residual_silu_gradient.h"
#include "ops/rms_norm.h"
#include "ops/rope_angles.h"
#include "ops/rope_append.h"
#include "ops/silu_mul.h"
#include "ops/snapkv_select.h"
#include "ops/stream_read.h"
#include "ops/sum_of_squares.h"
#include "ops/top_k.h"
#include "ops/tree_attention.h"
#include "ops/unpack_weight.h"

namespace gorgon {

namespace {

/** Compute capabilities: the least that is supported, and the one that sm_90a code runs on. */
constexpr int kLeastMajor = 8, kHopperMajor = 9, kHopperMinor = 0;

#define GORGON_FORWARD_OPERATION(name, Args) \
  Status name(const Args& args, Context& context) { return name##_cuda(args, static_cast<CudaContext&>(context)); }
GORGON_SHARED_OPERATIONS(GORGON_FORWARD_OPERATION)
#undef GORGON_FORWARD_OPERATION

int64_t head_group_bytes(DType dtype, int64_t head_dim) { return kCudaRowGroup * core_head_width(head_dim) * dtype_size(dtype); }
int64_t operand_bytes(DType dtype, int64_t rows, int64_t depth) { return core_matrix_elements(rows, depth) * dtype_size(dtype); }
int64_t operand_stride(int64_t) { return 0; }
int64_t query_element_bytes(DType dtype) { return dtype_size(dtype); }
bool needs_gate_workspace(DType packed, const Context& context) {
  return packed == DType::kF32 || packed == DType::kInt8 || !static_cast<const CudaContext&>(context).hopper;
}
int64_t padded_columns(int64_t columns, bool gated) { return gated ? 2 * round_up(columns / 2, kCore) : columns; }
int64_t packed_bytes(DType dtype, int64_t columns, int64_t depth, bool gated) { return packed_bytes_cuda(dtype, padded_columns(columns, gated), depth); }
Status pack(const PackArgs& args, Context& context) { return pack_cuda(args, static_cast<CudaContext&>(context)); }
Status fill_random(void* values, DType dtype, int64_t columns, int64_t depth, bool gated, float deviation, uint64_t seed, Context& context) {
  return fill_random_cuda(values, dtype, padded_columns(columns, gated), depth, deviation, seed, static_cast<CudaContext&>(context));
}

bool is_supported(const Device& device) { return device.major >= kLeastMajor; }
bool is_hopper(const Device& device) { return device.major == kHopperMajor && device.minor == kHopperMinor; }

template <bool hopper>
bool fits(int device) {
  const std::vector<Device> devices = cuda_devices();
  if (device < 0 || device >= static_cast<int>(devices.size())) return true;
  return hopper ? is_hopper(devices[device]) : is_supported(devices[device]);
}

template <bool hopper>
bool usable() {
  for (const Device& device : cuda_devices()) {
    if (hopper ? is_hopper(device) : is_supported(device)) return true;
  }
  return false;
}

std::string capability(const Device& device) { return std::to_string(device.major) + "." + std::to_string(device.minor); }

template <bool hopper>
Status make_context(const ContextSpec& spec, std::unique_ptr<Context>* out) {
  const std::vector<Device> devices = cuda_devices();
  const int count = static_cast<int>(devices.size());
  if (spec.device < 0 || spec.device >= count) {
    return {StatusCode::kDevice, "CUDA device " + std::to_string(spec.device) + " does not exist: " +
                                     (count == 1 ? std::string("there is one, 0.") : "there are " + std::to_string(count) + ", from 0 on.")};
  }
  if (!fits<hopper>(spec.device)) {
    const Device& device = devices[spec.device];
    return {StatusCode::kDevice, "CUDA device " + std::to_string(spec.device) + " (" + device.name + ") has compute capability " + capability(device) +
                                     (hopper ? ", and sm_90a code runs on 9.0 only. Use another instruction set, or auto."
                                             : ", and 8.0 is the least that is supported. Use another device, or backend \"cpu\".")};
  }
  return open_cuda_context(spec.device, hopper, spec.memory_budget, out);
}

/** Asked once: a driver does not come or go while a process runs. */
struct Found {
  std::vector<Device> devices;
  std::string problem;
};

const Found& found_devices() {
  static const Found found = [] {
    Found result;
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaErrorInsufficientDriver) {
      result.problem = "the NVIDIA driver is missing, or older than the CUDA runtime this was built with";
    } else if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) {
      result.problem = "this machine has no CUDA device";
    } else if (error != cudaSuccess) {
      result.problem = std::string("CUDA cannot be started: ") + cudaGetErrorString(error);
    }
    cudaGetLastError();
    for (int i = 0; i < count && error == cudaSuccess; ++i) {
      cudaDeviceProp properties{};
      Device device;  // one that does not answer keeps its number, and is too old for everything
      if (cudaGetDeviceProperties(&properties, i) == cudaSuccess) {
        device = {properties.name, static_cast<int64_t>(properties.totalGlobalMem), properties.major, properties.minor, properties.multiProcessorCount};
      }
      result.devices.push_back(device);
    }
    return result;
  }();
  return found;
}

}  // namespace

std::vector<Device> cuda_devices() { return found_devices().devices; }

std::string cuda_detail() {
  const Found& found = found_devices();
  if (found.devices.empty()) return found.problem;
  std::string text;
  for (const Device& device : found.devices) {
    text += (text.empty() ? "" : ", ") + device.name;
    if (!is_supported(device)) text += " (compute capability " + capability(device) + ", and 8.0 is the least that is supported)";
  }
  return text;
}

Backend cuda_table(bool hopper) {
  Backend table{};
  table.name = "cuda";
  table.isa = hopper ? "sm_90a" : "sm_80";
  table.usable = hopper ? usable<true> : usable<false>;
  table.fits = hopper ? fits<true> : fits<false>;
  table.make_context = hopper ? make_context<true> : make_context<false>;
  table.layout = {kCudaRowGroup,   head_group_bytes,     head_group_bytes, operand_bytes, operand_stride, core_head_width, query_element_bytes,
                  needs_gate_workspace, packed_bytes,     pack,             fill_random,   false,          4096};
#define GORGON_FILL_OPERATION(operation, Args) table.operation = operation;
  GORGON_SHARED_OPERATIONS(GORGON_FILL_OPERATION)
#undef GORGON_FILL_OPERATION
  return table;
}

}  // namespace gorgon

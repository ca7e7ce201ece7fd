// CudaContext: what CUDA's operations run with: one device, one stream, memory with a budget, scratch, and recordings. Also the one way to launch.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <memory>
#include <string>
#include <unordered_map>

#include "common/context.h"

namespace gorgon {

/** OK, or what CUDA says went wrong while doing `what`. */
Status cuda_status(cudaError_t error, const char* what);

#define GORGON_CUDA_TRY(call, what) GORGON_TRY(::gorgon::cuda_status((call), (what)))

/** Device memory from a pool of its own, so that closing gives all of it back; bytes beyond the budget are refused. */
class DeviceMemory : public Memory {
 public:
  DeviceMemory() = default;
  ~DeviceMemory() override;
  /** `budget` bytes; 0: what the device has free. */
  Status open(int device, cudaStream_t stream, int64_t budget);

  Status allocate(int64_t bytes, const char* what, void** out) override;
  void release(void* data, int64_t bytes) override;
  Status copy(void* to, const void* from, int64_t bytes) override;
  Status upload(void* to, const void* from, int64_t bytes) override;
  Status download(void* to, const void* from, int64_t bytes) override;
  Status fill(void* to, int byte, int64_t bytes) override;
  bool is_host() const override { return false; }

  int64_t used() const override { return used_; }
  /** Of the pool, what lies unused in it included. */
  int64_t peak() const override;

 private:
  /** Bytes that the pool holds. */
  int64_t reserved(cudaMemPoolAttr attribute) const;

  int device_ = 0;
  cudaStream_t stream_ = nullptr;
  cudaMemPool_t pool_ = nullptr;
  int64_t budget_ = 0;
  std::atomic<int64_t> used_{0};
};

struct CudaContext : Context {
  CudaContext() = default;
  ~CudaContext() override;
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;

  int threads() const override { return 1; }
  Memory& memory() override { return device_memory; }
  Status enter() override;
  Status finish() override;
  Status recorded(uint64_t key, const std::function<Status()>& body) override;
  void forget_recordings() override;

  int device = 0;
  int multiprocessors = 0;
  /** Whether sm_90a code runs: wgmma, bulk copies, launches that overlap. Otherwise all code is that of sm_80. */
  bool hopper = false;
  /** What operations launch on. */
  cudaStream_t stream = nullptr;
  DeviceMemory device_memory;

  /** Device memory reused from call to call; what it holds between calls means nothing. Growing it forgets recordings. */
  template <class T>
  Status scratch(int64_t count, T** out) {
    void* data = nullptr;
    GORGON_TRY(grow_scratch(count * static_cast<int64_t>(sizeof(T)), &data));
    *out = static_cast<T*>(data);
    return {};
  }
  /** u32 [kFlags], zero before and after every operation: whoever sets one clears it again. */
  static constexpr int64_t kFlags = int64_t{1} << 21;
  uint32_t* flags = nullptr;

  /** Page-locked memory of the process, reused from call to call: for what is uploaded or downloaded within one operation. */
  Status pinned(int64_t bytes, void** out);

 private:
  Status grow_scratch(int64_t bytes, void** out);

  /** Operations are recorded on a stream of their own: what other threads free meanwhile goes to the other one. */
  cudaStream_t recording_stream_ = nullptr;
  Buffer scratch_;
  Buffer flags_;
  void* pinned_ = nullptr;
  int64_t pinned_bytes_ = 0;
  struct Recording {
    cudaGraphExec_t graph = nullptr;
    int64_t runs = 0;
  };
  std::unordered_map<uint64_t, Recording> recordings_;

  friend Status open_cuda_context(int device, bool hopper, int64_t budget, std::unique_ptr<Context>* out);
};

Status open_cuda_context(int device, bool hopper, int64_t budget, std::unique_ptr<Context>* out);

/**
 * Launches a kernel on the context's stream. On Hopper it may start before the kernel before it is done: every kernel therefore calls
 * wait_for_previous() before it touches anything but weights, and let_next_start() once it runs.
 */
template <class... Parameters, class... Arguments>
Status launch(CudaContext& context, const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, int64_t shared_bytes, Arguments&&... arguments) {
  if (shared_bytes > 48 * 1024) {
    GORGON_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)), name);
  }
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = context.stream;
  config.attrs = &attribute;
  config.numAttrs = context.hopper ? 1 : 0;
  return cuda_status(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name);
}

}  // namespace gorgon

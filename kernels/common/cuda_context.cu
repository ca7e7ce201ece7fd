// The device's memory, scratch, waiting, and recordings.
#include "common/cuda_context.h"

#include <cstdio>
#include <utility>

namespace gorgon {

namespace {

/** Freed memory that an engine keeps to itself: a layer of a prompt's cache comes and goes, and so does what a step reserves. */
constexpr uint64_t kKeptBytes = uint64_t{1} << 30;
/** What is uploaded in one piece straight from the caller's memory; CUDA copies as much aside before it returns. */
constexpr int64_t kSmallUpload = 64 * 1024;
/** Recordings kept; beyond that all are forgotten, and those still in use are made again. */
constexpr size_t kMostRecordings = 64;

std::string size_text(int64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, bytes < (int64_t{1} << 30) ? "%.1f MiB" : "%.2f GiB",
                static_cast<double>(bytes) / static_cast<double>(bytes < (int64_t{1} << 30) ? int64_t{1} << 20 : int64_t{1} << 30));
  return text;
}

}  // namespace

Status cuda_status(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return {};
  cudaGetLastError();  // so that it is not met again where nothing failed
  const StatusCode code = error == cudaErrorMemoryAllocation ? StatusCode::kOutOfMemory : StatusCode::kDevice;
  return {code, std::string("CUDA failed in ") + what + ": " + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + ")."};
}

// --- memory

Status DeviceMemory::open(int device, cudaStream_t stream, int64_t budget) {
  device_ = device;
  stream_ = stream;
  budget_ = budget;
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = device;
  GORGON_CUDA_TRY(cudaMemPoolCreate(&pool_, &properties), "making a memory pool");
  // So much of what was freed stays with the pool for the next request; the rest goes back to the device when the stream is waited for.
  uint64_t keep = kKeptBytes;
  GORGON_CUDA_TRY(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep), "making a memory pool");
  return {};
}

DeviceMemory::~DeviceMemory() {
  if (pool_ == nullptr) return;
  cudaSetDevice(device_);
  cudaMemPoolDestroy(pool_);
}

Status DeviceMemory::allocate(int64_t bytes, const char* what, void** out) {
  *out = nullptr;
  if (bytes < 0) return {StatusCode::kShape, std::string(what) + ": a negative size was asked for"};
  if (bytes == 0) return {};
  if (budget_ > 0 && used_ + bytes > budget_) {
    return {StatusCode::kOutOfMemory, "Out of GPU memory while reserving " + size_text(bytes) + " of " + what + ": " + size_text(used_) + " of the budget of " +
                                          size_text(budget_) + " are in use. Raise deviceMemory, or use a smaller budget of kv, fewer tokens or fewer sequences at once."};
  }
  const auto give_back_unused = [&] {
    cudaStreamSynchronize(stream_);
    cudaMemPoolTrimTo(pool_, 0);
  };
  // The pool may hold more than is in use: it counts, too.
  if (budget_ > 0 && reserved(cudaMemPoolAttrReservedMemCurrent) + bytes > budget_) give_back_unused();
  cudaError_t error = cudaMallocFromPoolAsync(out, static_cast<size_t>(bytes), pool_, stream_);
  if (error == cudaErrorMemoryAllocation) {  // what lies unused may be in pieces that are too small
    cudaGetLastError();
    give_back_unused();
    error = cudaMallocFromPoolAsync(out, static_cast<size_t>(bytes), pool_, stream_);
  }
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    *out = nullptr;
    size_t free_bytes = 0, total = 0;
    cudaMemGetInfo(&free_bytes, &total);
    return {StatusCode::kOutOfMemory, "Out of GPU memory while reserving " + size_text(bytes) + " of " + what + " (" + size_text(static_cast<int64_t>(free_bytes)) +
                                          " free of " + size_text(static_cast<int64_t>(total)) + "). Use a smaller budget of kv, fewer tokens or fewer sequences at once."};
  }
  GORGON_CUDA_TRY(error, what);
  used_ += bytes;
  const Status cleared = cuda_status(cudaMemsetAsync(*out, 0, static_cast<size_t>(bytes), stream_), what);
  if (!cleared.ok()) release(std::exchange(*out, nullptr), bytes);
  return cleared;
}

int64_t DeviceMemory::reserved(cudaMemPoolAttr attribute) const {
  uint64_t bytes = 0;
  cudaMemPoolGetAttribute(pool_, attribute, &bytes);
  return static_cast<int64_t>(bytes);
}

int64_t DeviceMemory::peak() const { return reserved(cudaMemPoolAttrReservedMemHigh); }

void DeviceMemory::release(void* data, int64_t bytes) {
  if (data == nullptr) return;
  cudaSetDevice(device_);  // a session may be closed from a thread that never ran an operation
  cudaFreeAsync(data, stream_);
  used_ -= bytes;
}

Status DeviceMemory::copy(void* to, const void* from, int64_t bytes) {
  if (bytes == 0) return {};
  return cuda_status(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, stream_), "a copy");
}

Status DeviceMemory::upload(void* to, const void* from, int64_t bytes) {
  if (bytes == 0) return {};
  GORGON_CUDA_TRY(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream_), "an upload");
  return bytes <= kSmallUpload ? Status() : cuda_status(cudaStreamSynchronize(stream_), "an upload");
}

Status DeviceMemory::download(void* to, const void* from, int64_t bytes) {
  if (bytes == 0) return {};
  GORGON_CUDA_TRY(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream_), "a download");
  return cuda_status(cudaStreamSynchronize(stream_), "a download");
}

Status DeviceMemory::fill(void* to, int byte, int64_t bytes) {
  if (bytes == 0) return {};
  return cuda_status(cudaMemsetAsync(to, byte, static_cast<size_t>(bytes), stream_), "clearing memory");
}

// --- context

Status open_cuda_context(int device, bool hopper, int64_t budget, std::unique_ptr<Context>* out) {
  auto context = std::make_unique<CudaContext>();
  context->device = device;
  context->hopper = hopper;
  GORGON_CUDA_TRY(cudaSetDevice(device), "choosing the device");
  GORGON_CUDA_TRY(cudaDeviceGetAttribute(&context->multiprocessors, cudaDevAttrMultiProcessorCount, device), "asking for the device's properties");
  GORGON_CUDA_TRY(cudaStreamCreateWithFlags(&context->stream, cudaStreamNonBlocking), "making a stream");
  GORGON_CUDA_TRY(cudaStreamCreateWithFlags(&context->recording_stream_, cudaStreamNonBlocking), "making a stream");
  GORGON_TRY(context->device_memory.open(device, context->stream, budget));
  context->scratch_ = Buffer(context->device_memory);
  context->flags_ = Buffer(context->device_memory);
  GORGON_TRY(context->flags_.allocate(CudaContext::kFlags * static_cast<int64_t>(sizeof(uint32_t)), "flags"));
  context->flags = context->flags_.as<uint32_t>();
  *out = std::move(context);
  return {};
}

CudaContext::~CudaContext() {
  if (stream == nullptr) return;
  cudaSetDevice(device);
  cudaStreamSynchronize(stream);
  forget_recordings();
  scratch_.release();
  flags_.release();
  if (pinned_ != nullptr) cudaFreeHost(pinned_);
  cudaStreamSynchronize(stream);
  cudaStreamDestroy(stream);
  if (recording_stream_ != nullptr) cudaStreamDestroy(recording_stream_);
}

Status CudaContext::enter() { return cuda_status(cudaSetDevice(device), "choosing the device"); }

Status CudaContext::finish() { return cuda_status(cudaStreamSynchronize(stream), "waiting for the device"); }

Status CudaContext::grow_scratch(int64_t bytes, void** out) {
  if (scratch_.bytes() < bytes) {
    cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
    GORGON_CUDA_TRY(cudaStreamIsCapturing(stream, &capturing), "reserving scratch memory");
    if (capturing != cudaStreamCaptureStatusNone) return {StatusCode::kInternal, "scratch memory grew while operations were recorded"};
    forget_recordings();
    GORGON_TRY(scratch_.allocate(bytes + bytes / 4, "scratch memory"));
  }
  *out = scratch_.data();
  return {};
}

Status CudaContext::pinned(int64_t bytes, void** out) {
  if (pinned_bytes_ < bytes) {
    GORGON_TRY(finish());  // a copy may still read the old one
    void* fresh = nullptr;
    GORGON_CUDA_TRY(cudaMallocHost(&fresh, static_cast<size_t>(bytes + bytes / 4)), "reserving page-locked memory");
    if (pinned_ != nullptr) cudaFreeHost(pinned_);
    pinned_ = fresh;
    pinned_bytes_ = bytes + bytes / 4;
  }
  *out = pinned_;
  return {};
}

// --- recordings

Status CudaContext::recorded(uint64_t key, const std::function<Status()>& body) {
  if (recordings_.size() > kMostRecordings) forget_recordings();
  // The first run reserves what scratch memory it needs, and may be the only one of its kind.
  if (recordings_[key].runs == 0) {
    GORGON_TRY(body());
    ++recordings_[key].runs;  // looked up again: growing scratch memory has forgotten it
    return {};
  }
  if (recordings_[key].graph == nullptr) {
    GORGON_CUDA_TRY(cudaStreamBeginCapture(recording_stream_, cudaStreamCaptureModeThreadLocal), "recording operations");
    std::swap(stream, recording_stream_);
    const Status status = body();
    std::swap(stream, recording_stream_);
    cudaGraph_t graph = nullptr;
    const cudaError_t ended = cudaStreamEndCapture(recording_stream_, &graph);
    if (!status.ok()) {
      if (graph != nullptr) cudaGraphDestroy(graph);
      cudaGetLastError();
      return status;
    }
    GORGON_CUDA_TRY(ended, "recording operations");
    const cudaError_t made = cudaGraphInstantiate(&recordings_[key].graph, graph, 0);
    cudaGraphDestroy(graph);
    if (made != cudaSuccess) {  // for want of memory, say: then as if nobody recorded
      cudaGetLastError();
      recordings_[key].graph = nullptr;
      return body();
    }
  }
  ++recordings_[key].runs;
  return cuda_status(cudaGraphLaunch(recordings_[key].graph, stream), "repeating recorded operations");
}

void CudaContext::forget_recordings() {
  for (auto& entry : recordings_) {
    if (entry.second.graph != nullptr) cudaGraphExecDestroy(entry.second.graph);
  }
  recordings_.clear();
}

}  // namespace gorgon

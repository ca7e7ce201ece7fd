// CallArrays: the arrays of one bound operation where its backend wants them: JavaScript's own on the CPU; on a device copies, laid out as its
// operations take them, and brought back when the operation is done.
#pragma once

#include <memory>
#include <vector>

#include "backend/backend.h"
#include "ops/kv_layout.h"

namespace gorgon {

class CallArrays {
 public:
  CallArrays(const Backend& backend, Context& context) : backend_(backend), context_(context) {}

  /** Read only. */
  template <class T>
  const T* input(const T* here, int64_t count) {
    return static_cast<const T*>(copied(here, count * static_cast<int64_t>(sizeof(T))));
  }
  /** Read, written, or both. */
  template <class T>
  T* array(T* here, int64_t count) {
    if (is_host() || here == nullptr) return here;
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    void* there = copied(here, bytes);
    returns_.push_back({there, here, bytes, nullptr});
    return static_cast<T*>(there);
  }
  /** Rows f32 [rows, stride] as an operand of `depth`; read, or if `out` brought back. */
  void* operand(float* here, int64_t stride, int64_t rows, int64_t depth, DType dtype, bool out);
  /** Query rows from f32 [tokens, heads, D'], D' = head_dim rounded up to 32; brought back if `out`. */
  void* queries(float* here, int64_t tokens, int64_t heads, int64_t head_dim, DType dtype, bool out);
  /** Elements from one token's query rows to the next. */
  int64_t query_stride(int64_t heads, int64_t head_dim) const { return heads * backend_.layout.query_width(head_dim); }
  /** Heads of a cache laid out as the CPU's (kv_layout.h), of `rows` rows; brought back if `out`. [heads] in the backend's memory. */
  const KvHead* cache(const std::vector<KvHead>& here, int64_t head_dim, DType dtype, int64_t rows, bool out);
  /** The stride that operations are told. */
  int64_t operand_stride(int64_t stride) const { return is_host() ? stride : 0; }

  /** Memory of the backend that lives as long as this, zeroed. */
  Status reserve(int64_t bytes, std::byte** out);
  /** Bytes of the process's memory, copied there. */
  Status place(const void* here, int64_t bytes, std::byte** out);

  /** Everything that was written, where JavaScript sees it. Also says what went wrong before. */
  Status bring_back();

  bool is_host() const { return context_.memory().is_host(); }
  const Status& status() const { return status_; }

 private:
  /** Where an element of what is here lies in a laid-out array. */
  using Place = std::vector<int64_t>;
  struct Return {
    const void* there;
    void* here;
    int64_t bytes;
    /** Null: as they are. Otherwise of `dtype`, element i of what is here at places[i], or nowhere if that is negative. */
    std::shared_ptr<Place> places;
    DType dtype = DType::kF32;
    /** Here, too, elements are of `dtype`; otherwise they are floats. */
    bool same_dtype = false;
  };

  void* copied(const void* here, int64_t bytes);
  void* laid_out(void* here, std::shared_ptr<Place> places, int64_t elements, DType dtype, bool same_dtype, bool out);

  const Backend& backend_;
  Context& context_;
  std::vector<Buffer> buffers_;
  std::vector<Return> returns_;
  Status status_;
};

}  // namespace gorgon

// Laying out and bringing back, element by element: for tests, where nothing has to be fast.
#include "addon/call_arrays.h"

#include "common/cores.h"

namespace gorgon {

Status CallArrays::reserve(int64_t bytes, std::byte** out) {
  Buffer buffer(context_.memory());
  GORGON_TRY(buffer.allocate(bytes, "an array"));
  *out = buffer.data();
  buffers_.push_back(std::move(buffer));
  return {};
}

Status CallArrays::place(const void* here, int64_t bytes, std::byte** out) {
  GORGON_TRY(reserve(bytes, out));
  return context_.memory().upload(*out, here, bytes);
}

void* CallArrays::copied(const void* here, int64_t bytes) {
  if (is_host() || here == nullptr) return const_cast<void*>(here);
  std::byte* there = nullptr;
  const Status status = place(here, bytes, &there);
  if (!status.ok() && status_.ok()) status_ = status;
  return there;
}

void* CallArrays::laid_out(void* here, std::shared_ptr<Place> places, int64_t elements, DType dtype, bool same_dtype, bool out) {
  const int64_t size = dtype_size(dtype);
  std::vector<std::byte> image(elements * size);
  for (size_t i = 0; i < places->size(); ++i) {
    const int64_t place = (*places)[i];
    if (place < 0) continue;
    if (same_dtype) {
      std::memcpy(image.data() + place * size, static_cast<std::byte*>(here) + i * size, size);
    } else {
      store_element(dtype, image.data(), place, static_cast<float*>(here)[i]);
    }
  }
  void* there = copied(image.data(), elements * size);
  if (out) returns_.push_back({there, here, elements * size, std::move(places), dtype, same_dtype});
  return there;
}

const KvHead* CallArrays::cache(const std::vector<KvHead>& here, int64_t head_dim, DType dtype, int64_t rows, bool out) {
  if (is_host()) return here.data();
  const int64_t depth_tiles = divide_up(head_dim, kTileDepth), column_blocks = divide_up(head_dim, kTileColumns), groups = divide_up(rows, kRowGroup);
  const int64_t capacity = round_up(rows, kCudaRowGroup), elements = capacity * core_head_width(head_dim);
  auto k_places = std::make_shared<Place>(groups * kRowGroup * depth_tiles * kTileDepth, -1);
  auto v_places = std::make_shared<Place>(groups * kRowGroup * column_blocks * kTileColumns, -1);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t d = 0; d < head_dim; ++d) {
      const int64_t there = kv_element(row, d, head_dim);
      (*k_places)[(row / kTileColumns * depth_tiles + d / kTileDepth) * kTileElements + tile_element(dtype, d % kTileDepth, row % kTileColumns)] = there;
      (*v_places)[(row / kTileDepth * column_blocks + d / kTileColumns) * kTileElements + tile_element(dtype, row % kTileDepth, d % kTileColumns)] = there;
    }
  }
  std::vector<KvHead> heads;
  for (const KvHead& head : here) {
    heads.push_back({static_cast<std::byte*>(laid_out(head.k, k_places, elements, dtype, true, out)),
                     static_cast<std::byte*>(laid_out(head.v, v_places, elements, dtype, true, out)), array(head.positions, rows)});
  }
  return static_cast<const KvHead*>(copied(heads.data(), static_cast<int64_t>(heads.size() * sizeof(KvHead))));
}

void* CallArrays::operand(float* here, int64_t stride, int64_t rows, int64_t depth, DType dtype, bool out) {
  if (is_host()) return here;
  auto places = std::make_shared<Place>((rows - 1) * stride + depth, -1);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t k = 0; k < depth; ++k) (*places)[row * stride + k] = core_element(row, k, depth);
  }
  return laid_out(here, std::move(places), core_matrix_elements(rows, depth), dtype, false, out);
}

void* CallArrays::queries(float* here, int64_t tokens, int64_t heads, int64_t head_dim, DType dtype, bool out) {
  if (is_host()) return here;
  const int64_t from = round_up(head_dim, kTileDepth), to = core_head_width(head_dim);
  auto places = std::make_shared<Place>(tokens * heads * from, -1);
  for (int64_t row = 0; row < tokens * heads; ++row) {
    for (int64_t d = 0; d < to; ++d) (*places)[row * from + d] = row * to + d;
  }
  return laid_out(here, std::move(places), tokens * heads * to, dtype, false, out);
}

Status CallArrays::bring_back() {
  GORGON_TRY(status_);
  GORGON_TRY(context_.finish());
  for (const Return& item : returns_) {
    if (item.places == nullptr) {
      GORGON_TRY(context_.memory().download(item.here, item.there, item.bytes));
      continue;
    }
    std::vector<std::byte> image(item.bytes);
    GORGON_TRY(context_.memory().download(image.data(), item.there, item.bytes));
    for (size_t i = 0; i < item.places->size(); ++i) {
      const int64_t place = (*item.places)[i], size = dtype_size(item.dtype);
      if (place < 0) continue;
      if (item.same_dtype) {
        std::memcpy(static_cast<std::byte*>(item.here) + i * size, image.data() + place * size, size);
      } else {
        static_cast<float*>(item.here)[i] = load_element(item.dtype, image.data(), place);
      }
    }
  }
  return {};
}

}  // namespace gorgon

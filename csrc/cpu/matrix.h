// Tiles of logits on the CPU: plain memory seen as tensors, so that torch's own BLAS multiplies it.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cstdint>

namespace univa::cpu {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T>
constexpr ScalarType scalar_type_of() {
  return sizeof(T) == sizeof(double) ? ScalarType::Double : ScalarType::Float;
}

// A [rows, columns] view of memory that outlives it. Not known to autograd, so nothing that runs
// on it is recorded. Transposed: the view of row-major [columns, rows] memory.
template <typename T>
Tensor as_matrix(const T* data, int64_t rows, int64_t columns, bool transposed = false) {
  const std::array<int64_t, 2> sizes{rows, columns};
  const std::array<int64_t, 2> strides{transposed ? 1 : columns, transposed ? rows : 1};
  return torch::stable::from_blob(const_cast<T*>(data), {sizes.data(), 2}, {strides.data(), 2},
                                  torch::stable::Device(torch::headeronly::DeviceType::CPU),
                                  scalar_type_of<T>());
}

// out = a @ b. The out variant on purpose: autocast casts the arguments of aten::mm, not of this.
inline void multiply(const Tensor& out, const Tensor& a, const Tensor& b) {
  std::array<StableIValue, 3> stack{torch::stable::detail::from(a), torch::stable::detail::from(b),
                                    torch::stable::detail::from(out)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  (void)torch::stable::detail::to<Tensor>(stack[0]);  // `out` again: release the handle
}

// The largest tile side, in rows and in columns.
constexpr int64_t kMaxTile = 1024;

// Tile side for embeddings of `depth` columns: one tile of logits and two [side, depth] products
// stay within 16 MiB. Forward and backward use the same, so that they see the same logits.
template <typename T>
int64_t tile_side(int64_t depth) {
  constexpr int64_t budget = (int64_t{16} << 20) / static_cast<int64_t>(sizeof(T));
  int64_t side = kMaxTile;
  while (side > 16 && side * side + 2 * side * depth > budget) {
    side /= 2;
  }
  return side;
}

// The tensor itself where it already has the type, else a converted copy.
inline Tensor converted(const Tensor& tensor, ScalarType type) {
  return tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type);
}

// Rows that one thread takes at least, for rows of `columns` elements.
inline int64_t row_grain(int64_t columns) {
  return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, columns));
}

// tile[r, c] = rows[r] . columns[c], both [_, depth] row-major.
template <typename T>
void dot_products(T* tile, const T* rows, int64_t row_count, const T* columns, int64_t column_count,
                  int64_t depth) {
  if (depth == 0) {
    std::fill(tile, tile + row_count * column_count, T(0));
    return;
  }
  multiply(as_matrix(tile, row_count, column_count), as_matrix(rows, row_count, depth),
           as_matrix(columns, depth, column_count, /*transposed=*/true));
}

}  // namespace univa::cpu

// Tiles of logits on the CPU: plain memory seen as tensors, so that torch's own BLAS multiplies it.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
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

// out = a @ b, or out += a @ b. Straight to the CPU's kernel: no dispatch, no autocast.
inline void multiply(const Tensor& out, const Tensor& a, const Tensor& b, bool add = false) {
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_cpu_addmm_out(out.get(), out.get(), a.get(), b.get(), add ? 1.0 : 0.0, 1.0));
}

// The largest tile side, in rows and in columns.
constexpr int64_t kMaxTile = 1024;

// Tile side for `rows` x `columns` pairs. Small tiles waste little of the diagonal ones, of which
// half is not needed, and stay in cache; large ones are multiplied faster. Forward and backward
// take the same, so that they see the same logits.
inline int64_t tile_side(int64_t rows, int64_t columns) {
  const int64_t pairs = std::min(rows, columns);
  return pairs >= 4096 ? 512 : pairs >= 512 ? 256 : 128;
}

// The tensor itself where it already has the type, else a converted copy.
inline Tensor converted(const Tensor& tensor, ScalarType type) {
  return tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type);
}

// Rows that one thread takes at least, for rows of `columns` elements.
inline int64_t row_grain(int64_t columns) {
  return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, columns));
}

// A row of a block is a cache line of floats.
constexpr int64_t kBlock = 16;

// out[c, r] = in[r, c] for a block of at most kBlock rows and columns. By way of a buffer: each
// cache line is touched once, however many of them a stride puts into one set.
template <typename T>
void transpose_block(T* out, int64_t out_stride, const T* in, int64_t in_stride, int64_t rows,
                     int64_t columns) {
  T buffer[kBlock * kBlock];
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      buffer[c * kBlock + r] = in[r * in_stride + c];
    }
  }
  for (int64_t c = 0; c < columns; ++c) {
    std::copy_n(buffer + c * kBlock, rows, out + c * out_stride);
  }
}

// Takes the part of a square tile below its diagonal from that above.
template <typename T>
void mirror(T* tile, int64_t side) {
  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t row = begin * kBlock; row < std::min(end * kBlock, side); row += kBlock) {
      for (int64_t column = 0; column < row; column += kBlock) {
        transpose_block(tile + row * side + column, side, tile + column * side + row, side,
                        kBlock, std::min(kBlock, side - row));
      }
      for (int64_t r = row; r < std::min(row + kBlock, side); ++r) {
        for (int64_t c = row; c < r; ++c) {
          tile[r * side + c] = tile[c * side + r];
        }
      }
    }
  };
  torch::stable::parallel_for(0, (side + kBlock - 1) / kBlock, row_grain(side * kBlock), run);
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

// The shim's nvcuda::wmma: 16x16 tiles of bfloat16 and float16 (depth 16) and tf32 (depth 8). Lane
// l holds the elements l * num_elements on of a tile, row by row.
#pragma once

#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "cuda_runtime.h"

namespace nvcuda::wmma {

struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major, mem_col_major };

namespace precision {
struct tf32;
}

template <typename T>
struct Storage {
  using type = T;
};
template <>
struct Storage<precision::tf32> {
  using type = float;
};

// The low bits of a float that tf32 has no room for are left out by the hardware.
inline float read_as(precision::tf32*, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits &= 0xffffe000u;
  std::memcpy(&value, &bits, sizeof bits);
  return value;
}
template <typename T>
float read_as(T*, T value) {
  return static_cast<float>(value);
}

inline float __float_to_tf32(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7f800000u) != 0x7f800000u) {
    bits += 0x1000u;  // to nearest, ties away from zero
  }
  std::memcpy(&value, &bits, sizeof bits);
  return read_as(static_cast<precision::tf32*>(nullptr), value);
}

template <typename Use, int M, int N, int K, typename T, typename Layout = void>
struct fragment {
  using Element = typename Storage<T>::type;
  static constexpr bool is_a = std::is_same_v<Use, matrix_a>;
  static constexpr bool is_b = std::is_same_v<Use, matrix_b>;
  static constexpr int rows = is_b ? K : M;
  static constexpr int columns = is_a ? K : N;
  static constexpr int num_elements = rows * columns / univa_shim::kWarpLanes;
  Element x[num_elements];
};

template <typename Fragment>
void fill_fragment(Fragment& fragment, float value) {
  for (auto& element : fragment.x) {
    element = static_cast<typename Fragment::Element>(value);
  }
}

inline void require_alignment(const void* address, unsigned stride_bytes) {
  if (reinterpret_cast<uintptr_t>(address) % 32 != 0 || stride_bytes % 16 != 0) {
    univa_shim::fault("wmma: tiles start at multiples of 32 bytes, rows at multiples of 16");
  }
}

template <typename Use, int M, int N, int K, typename T, typename Layout>
void load_matrix_sync(fragment<Use, M, N, K, T, Layout>& to,
                      const typename Storage<T>::type* from, unsigned stride) {
  using Fragment = fragment<Use, M, N, K, T, Layout>;
  univa_shim::warp_barrier(0xffffffffu, "load_matrix_sync", 0);
  require_alignment(from, stride * sizeof(*from));
  for (int e = 0; e < Fragment::num_elements; ++e) {
    const int element = univa_shim::lane() * Fragment::num_elements + e;
    const int row = element / Fragment::columns;
    const int column = element % Fragment::columns;
    const auto* address = from + (std::is_same_v<Layout, row_major> ? row * stride + column
                                                                    : column * stride + row);
    if (univa_shim::is_shared(address)) {
      univa_shim::on_read(address, sizeof(*address));
    }
    to.x[e] = *address;
  }
}

template <int M, int N, int K>
void store_matrix_sync(float* to, const fragment<accumulator, M, N, K, float>& from,
                       unsigned stride, layout_t layout) {
  using Fragment = fragment<accumulator, M, N, K, float>;
  univa_shim::warp_barrier(0xffffffffu, "store_matrix_sync", 0);
  require_alignment(to, stride * sizeof(float));
  for (int e = 0; e < Fragment::num_elements; ++e) {
    const int element = univa_shim::lane() * Fragment::num_elements + e;
    const int row = element / N;
    const int column = element % N;
    float* address = to + (layout == mem_row_major ? row * stride + column : column * stride + row);
    if (univa_shim::is_shared(address)) {
      univa_shim::on_write(address, sizeof(float));
    }
    *address = from.x[e];
  }
}

template <int M, int N, int K, typename T, typename LayoutA, typename LayoutB>
void mma_sync(fragment<accumulator, M, N, K, float>& to,
              const fragment<matrix_a, M, N, K, T, LayoutA>& a,
              const fragment<matrix_b, M, N, K, T, LayoutB>& b,
              const fragment<accumulator, M, N, K, float>& add) {
  using Sum = fragment<accumulator, M, N, K, float>;
  using A = fragment<matrix_a, M, N, K, T, LayoutA>;
  using B = fragment<matrix_b, M, N, K, T, LayoutB>;
  const void* mine[2] = {&a, &b};
  univa_shim::warp().pointers[univa_shim::lane()] = mine;
  univa_shim::warp_barrier(0xffffffffu, "mma_sync", 0);
  const auto of_lane = [](int lane, int which) {
    return static_cast<const void* const*>(univa_shim::warp().pointers[lane])[which];
  };
  constexpr T* kType = nullptr;
  float sums[Sum::num_elements];
  for (int e = 0; e < Sum::num_elements; ++e) {
    const int element = univa_shim::lane() * Sum::num_elements + e;
    const int row = element / N;
    const int column = element % N;
    sums[e] = add.x[e];
    for (int k = 0; k < K; ++k) {
      const int in_a = row * K + k;
      const int in_b = k * N + column;
      const auto* of_a = static_cast<const A*>(of_lane(in_a / A::num_elements, 0));
      const auto* of_b = static_cast<const B*>(of_lane(in_b / B::num_elements, 1));
      sums[e] += read_as(kType, of_a->x[in_a % A::num_elements]) *
                 read_as(kType, of_b->x[in_b % B::num_elements]);
    }
  }
  univa_shim::warp_barrier(0xffffffffu, "mma_sync", 0);
  std::memcpy(to.x, sums, sizeof sums);
}

}  // namespace nvcuda::wmma

// What every kernel needs: element types, dot products by a warp, reductions over a block.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/launch.h"
#include "univa/positives.h"

namespace univa::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// float for float, bfloat16 and half; double for double.
template <typename T>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};
template <typename T>
using AccumulateType = typename Accumulate<T>::type;

template <typename T>
__device__ __forceinline__ AccumulateType<T> widen(T value) {
  return static_cast<AccumulateType<T>>(value);
}

template <typename T>
__device__ __forceinline__ T narrow(AccumulateType<T> value) {
  return static_cast<T>(value);
}

// a . b, the same in every lane of the warp and the same for (b, a).
template <typename T>
__device__ __forceinline__ AccumulateType<T> warp_dot(const T* a, const T* b, int64_t depth,
                                                      int lane) {
  AccumulateType<T> sum = 0;
  for (int64_t d = lane; d < depth; d += kWarp) {
    sum += widen(a[d]) * widen(b[d]);
  }
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    sum += __shfl_xor_sync(kAllLanes, sum, step);
  }
  return sum;
}

// Sums over the block in a fixed order; the result is in thread 0. `shared`: one per warp.
template <typename A>
__device__ A block_sum(A sum, A* shared) {
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    sum += __shfl_xor_sync(kAllLanes, sum, step);
  }
  if (lane == 0) {
    shared[warp] = sum;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int other = 1; other < static_cast<int>(blockDim.x / kWarp); ++other) {
      sum += shared[other];
    }
  }
  __syncthreads();
  return sum;
}

template <typename U>
__device__ __forceinline__ bool within(const void* a, const void* b, int64_t row, int64_t column,
                                       int64_t dimensions, double threshold) {
  const U* u = static_cast<const U*>(a) + row * dimensions;
  const U* v = static_cast<const U*>(b) + column * dimensions;
  U squared = 0;
  for (int64_t d = 0; d < dimensions; ++d) {
    squared = add_squared_difference(squared, u[d], v[d]);
  }
  return squared < static_cast<U>(threshold);
}

// Whether anchor `row` and contrast `column` are positive, the self pair apart.
__device__ __forceinline__ bool is_positive(const ContrastiveProblem& problem, int64_t row,
                                            int64_t column) {
  if (problem.anchor_groups != nullptr &&
      problem.anchor_groups[row] == problem.contrast_groups[column]) {
    return true;
  }
  return problem.double_coordinates
             ? within<double>(problem.anchor_coordinates, problem.contrast_coordinates, row, column,
                              problem.dimensions, problem.squared_threshold)
             : within<float>(problem.anchor_coordinates, problem.contrast_coordinates, row, column,
                             problem.dimensions, problem.squared_threshold);
}

// One pair as reductions and gradients take it: its logit, z (see reduction.h) and k_ij. Where
// `counts` is false there is no such pair.
template <typename A>
struct Pair {
  A logit;
  A z;
  A positive;
  bool counts;
};

template <typename A>
__device__ __forceinline__ Pair<A> make_pair(const ContrastiveProblem& problem, int64_t row,
                                             int64_t column, A dot) {
  const A logit = rounded_product(dot, static_cast<A>(problem.inverse_temperature));
  if (column == self_column(row, problem.has_self, problem.self_offset, problem.columns)) {
    const A z = rounded_sum(logit, static_cast<A>(problem.log_self_weight));
    return {logit, z, static_cast<A>(problem.self_weight), problem.self_weight > 0.0};
  }
  return {logit, logit, is_positive(problem, row, column) ? A(1) : A(0), true};
}

// What the last launch came to: null, or CUDA's words.
inline const char* launch_error() {
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

// Calls `launch` with a null pointer of the element type.
template <typename Launch>
const char* dispatch(Type type, const Launch& launch) {
  switch (type) {
    case Type::kDouble:
      return launch(static_cast<double*>(nullptr));
    case Type::kBFloat16:
      return launch(static_cast<__nv_bfloat16*>(nullptr));
    case Type::kHalf:
      return launch(static_cast<__half*>(nullptr));
    default:
      return launch(static_cast<float*>(nullptr));
  }
}

}  // namespace univa::cuda

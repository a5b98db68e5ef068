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

template <typename A, typename U>
__device__ __forceinline__ A positive_weight_of(const ContrastiveProblem& problem, int64_t row,
                                                int64_t column) {
  const int64_t dimensions = problem.dimensions;
  const U* u = static_cast<const U*>(problem.anchor_coordinates) + row * dimensions;
  const U* v = static_cast<const U*>(problem.contrast_coordinates) + column * dimensions;
  U squared = 0;
  for (int64_t d = 0; d < dimensions; ++d) {
    squared = add_squared_difference(squared, u[d], v[d]);
  }
  if (problem.gaussian) {
    const A exponent = static_cast<A>(squared) * static_cast<A>(problem.gaussian_factor);
    return std::exp(exponent);
  }
  return squared < static_cast<U>(problem.squared_threshold) ? A(1) : A(0);
}

// k of anchor `row` and contrast `column`, not of one group.
template <typename A>
__device__ __forceinline__ A positive_weight(const ContrastiveProblem& problem, int64_t row,
                                             int64_t column) {
  return problem.double_coordinates ? positive_weight_of<A, double>(problem, row, column)
                                    : positive_weight_of<A, float>(problem, row, column);
}

// 1 / temperature. The host does not know it where it is learned.
template <typename A>
__device__ __forceinline__ A inverse_temperature_of(const ContrastiveProblem& problem) {
  return problem.learned_temperature == nullptr
             ? static_cast<A>(problem.inverse_temperature)
             : A(1) / *static_cast<const A*>(problem.learned_temperature);
}

// One pair as reductions and gradients take it: its logit, z (see reduction.h) and k_ij. Where `counts` is false there is no such pair.
template <typename A>
struct Pair {
  A logit;
  A z;
  A positive;
  bool counts;
};

template <typename A>
__device__ __forceinline__ Pair<A> make_pair(const ContrastiveProblem& problem, int64_t row,
                                             int64_t column, A dot, A inverse_temperature) {
  const A logit = rounded_product(dot, inverse_temperature);
  if (column == self_column(row, problem.has_self, problem.self_offset, problem.columns)) {
    const A z = rounded_sum(logit, static_cast<A>(problem.log_self_weight));
    const A weight = static_cast<A>(problem.self_weight);
    return {logit, z, weight, problem.self_weight > 0.0};
  }
  if (problem.anchor_groups != nullptr &&
      problem.anchor_groups[row] == problem.contrast_groups[column]) {
    return {logit, logit, A(1), !problem.exclude_groups};
  }
  return {logit, logit, positive_weight<A>(problem, row, column), true};
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

// The same with a null pointer of the accumulate type.
template <typename Launch>
const char* dispatch_accumulate(Type type, const Launch& launch) {
  return type == Type::kDouble ? launch(static_cast<double*>(nullptr))
                               : launch(static_cast<float*>(nullptr));
}

}  // namespace univa::cuda

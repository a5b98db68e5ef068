// What every kernel needs: element types, reductions over warps and blocks, pairs, launches.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/launch.h"
#include "cuda/shared.cuh"
#include "univa/gradient.h"
#include "univa/positives.h"
#include "univa/reduction.h"

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

// The sum over the warp, the same in every lane.
template <typename A>
__device__ __forceinline__ A warp_sum(A sum) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    sum += __shfl_xor_sync(kAllLanes, sum, step);
  }
  return sum;
}

// Sums over the block in a fixed order; the result is in thread 0. `shared`: one per warp.
template <typename A>
__device__ A block_sum(A sum, const Shared<A>& shared) {
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) {
    shared[threadIdx.x / kWarp] = sum;
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

// The state of a row, merged over `lanes` neighbouring lanes (a power of two); the same in all.
template <typename A>
__device__ __forceinline__ RowState<A> merge_lanes(RowState<A> state, int lanes) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    if (step < lanes) {
      RowState<A> other;
      other.maximum = __shfl_xor_sync(kAllLanes, state.maximum, step);
      other.sum_e = __shfl_xor_sync(kAllLanes, state.sum_e, step);
      other.sum_es = __shfl_xor_sync(kAllLanes, state.sum_es, step);
      other.sum_k = __shfl_xor_sync(kAllLanes, state.sum_k, step);
      other.sum_ks = __shfl_xor_sync(kAllLanes, state.sum_ks, step);
      state.merge(other);
    }
  }
  return state;
}

// What is kept of row `row` of `rows`: its loss, and stats [4, rows].
template <typename A>
__device__ __forceinline__ void store_row(const RowState<A>& state, int64_t row, int64_t rows,
                                          A* stats) {
  stats[kLogZ * rows + row] = state.log_z();
  stats[kCount * rows + row] = state.sum_k;
  stats[kPositiveMean * rows + row] = state.positive_mean();
  stats[kLogitGap * rows + row] = state.logit_gap();
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

// Adds a pair to the state of its row. A self pair that is pushed alone would make z, not its logit,
// what logits are relative to: where logits are small, they would drown in log w. So its state is one
// relative to the logit, unless the weight is so small that others would vanish beside it.
template <typename A>
__device__ __forceinline__ void take(RowState<A>& state, const Pair<A>& pair) {
  if (!pair.counts) {
    return;
  }
  if (pair.z < pair.logit && pair.z > pair.logit - A(20)) {
    RowState<A> own;
    own.maximum = pair.logit;
    own.sum_e = std::exp(pair.z - pair.logit);
    own.sum_k = pair.positive;
    state.merge(own);
    return;
  }
  state.push(pair.logit, pair.z, pair.positive);
}

// A kernel has 48 KiB, its own arrays included, without asking. Above this, launches ask.
constexpr int64_t kSharedUnasked = 40 * 1024;
static_assert(kSharedUnasked + kStaticShared <= 48 * 1024);

// Launches a kernel with `bytes` of dynamic shared memory; null, or CUDA's words on what went wrong.
template <typename... Parameters, typename... Arguments>
const char* launch_kernel(void (*kernel)(Parameters...), dim3 grid, int threads, int64_t bytes,
                          void* stream, const Arguments&... arguments) {
  cudaError_t error = cudaSuccess;
  if (bytes > kSharedUnasked) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(bytes));
  }
  if (error == cudaSuccess) {
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = static_cast<size_t>(bytes);
    config.stream = static_cast<cudaStream_t>(stream);
    error = cudaLaunchKernelEx(&config, kernel, arguments...);
  }
  const cudaError_t last = cudaGetLastError();  // takes it off, so that no later call sees it
  error = error == cudaSuccess ? last : error;
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

// Blocks of `threads` for `count` things.
inline unsigned blocks_for(int64_t count, int64_t threads) {
  return static_cast<unsigned>((count + threads - 1) / threads);
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

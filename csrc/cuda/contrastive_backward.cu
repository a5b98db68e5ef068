// Backward of the contrastive loss: one block per row of a gradient, for the anchors and for the
// contrast set. The block goes over the other set in chunks: coefficients of the chunk's pairs
// first, then their products with the other set's rows, summed in shared memory.
//
// Where the contrast set is the anchors, a pair's coefficient takes both of its roles at once.

#include <algorithm>

#include "cuda/device.cuh"
#include "univa/gradient.h"
#include "univa/reduction.h"

namespace univa::cuda {

namespace {

constexpr int kThreads = 256;

enum class Role : int { kAnchor, kContrast, kBoth };

template <typename T, Role role>
__global__ void __launch_bounds__(kThreads)
    backward_kernel(const ContrastiveProblem problem, const AccumulateType<T>* upstream,
                    const AccumulateType<T>* stats, T* gradient, int64_t slice) {
  using A = AccumulateType<T>;
  extern __shared__ unsigned char memory[];
  A* coefficients = reinterpret_cast<A*>(memory);  // [kThreads]
  A* sums = coefficients + kThreads;               // [slice]

  constexpr bool own_is_contrast = role == Role::kContrast;
  const T* own_set = static_cast<const T*>(own_is_contrast ? problem.contrast : problem.anchors);
  const T* other_set = static_cast<const T*>(own_is_contrast ? problem.anchors : problem.contrast);
  const int64_t others = own_is_contrast ? problem.rows : problem.columns;
  const int64_t depth = problem.depth;
  const int64_t own = blockIdx.x;
  // This block's slice of the embedding's columns; more than one only for very deep embeddings.
  const int64_t first = blockIdx.y * slice;
  const int64_t width = min(slice, depth - first);
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const A inverse_temperature = inverse_temperature_of<A>(problem);
  const T* own_row = own_set + own * depth;

  const auto gradient_of = [&](int64_t anchor) {
    return RowGradient<A>::make(upstream[anchor], stats[kLogZ * problem.rows + anchor],
                                stats[kCount * problem.rows + anchor]);
  };
  for (int64_t d = threadIdx.x; d < width; d += kThreads) {
    sums[d] = 0;
  }
  for (int64_t begin = 0; begin < others; begin += kThreads) {
    A dot = 0;
    const int64_t mine = begin + warp * kWarp;
    for (int offset = 0; offset < kWarp && mine + offset < others; ++offset) {
      const A value = warp_dot(own_row, other_set + (mine + offset) * depth, depth, lane);
      dot = lane == offset ? value : dot;
    }
    const int64_t other = mine + lane;
    A coefficient = 0;
    if (other < others) {
      const int64_t anchor = own_is_contrast ? other : own;
      const int64_t column = own_is_contrast ? own : other;
      const Pair<A> pair = make_pair(problem, anchor, column, dot, inverse_temperature);
      if (pair.counts) {
        coefficient = gradient_of(anchor).coefficient(pair.z, pair.positive);
        if (role == Role::kBoth) {
          coefficient += gradient_of(column).coefficient(pair.z, pair.positive);
        }
      }
    }
    coefficients[threadIdx.x] = coefficient * inverse_temperature;
    __syncthreads();
    const int count = static_cast<int>(min(static_cast<int64_t>(kThreads), others - begin));
    for (int64_t d = threadIdx.x; d < width; d += kThreads) {
      const T* values = other_set + begin * depth + first + d;
      A sum = sums[d];
      for (int c = 0; c < count; ++c) {
        sum += coefficients[c] * widen(values[c * depth]);
      }
      sums[d] = sum;
    }
    __syncthreads();
  }
  for (int64_t d = threadIdx.x; d < width; d += kThreads) {
    gradient[own * depth + first + d] = narrow<T>(sums[d]);
  }
}

template <typename T, Role role>
const char* launch(const ContrastiveProblem& problem, const AccumulateType<T>* upstream,
                   const AccumulateType<T>* stats, T* gradient, int64_t rows, cudaStream_t stream) {
  using A = AccumulateType<T>;
  if (rows == 0 || problem.depth == 0) {
    return nullptr;
  }
  int device = 0;
  int limit = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  }
  if (error != cudaSuccess) {
    return cudaGetErrorString(error);
  }
  const int64_t room = limit / static_cast<int64_t>(sizeof(A)) - kThreads;
  const int64_t slice = std::min(problem.depth, room);
  const int bytes = static_cast<int>((slice + kThreads) * static_cast<int64_t>(sizeof(A)));
  if (bytes > 48 * 1024) {
    error = cudaFuncSetAttribute(backward_kernel<T, role>,
                                 cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) {
      return cudaGetErrorString(error);
    }
  }
  const dim3 grid(static_cast<unsigned>(rows),
                  static_cast<unsigned>((problem.depth + slice - 1) / slice));
  backward_kernel<T, role><<<grid, kThreads, bytes, stream>>>(problem, upstream, stats, gradient,
                                                             slice);
  return launch_error();
}

}  // namespace

const char* launch_contrastive_backward(const ContrastiveProblem& problem, const void* grad_losses,
                                        const void* stats, void* grad_anchors, void* grad_contrast,
                                        void* stream) {
  return dispatch(problem.type, [&](auto* element) {
    using T = std::remove_pointer_t<decltype(element)>;
    using A = AccumulateType<T>;
    const A* upstream = static_cast<const A*>(grad_losses);
    const A* kept = static_cast<const A*>(stats);
    const auto on = static_cast<cudaStream_t>(stream);
    T* anchors = static_cast<T*>(grad_anchors);
    if (problem.symmetric) {
      return launch<T, Role::kBoth>(problem, upstream, kept, anchors, problem.rows, on);
    }
    const char* error =
        launch<T, Role::kAnchor>(problem, upstream, kept, anchors, problem.rows, on);
    return error != nullptr
               ? error
               : launch<T, Role::kContrast>(problem, upstream, kept, static_cast<T*>(grad_contrast),
                                            problem.columns, on);
  });
}

}  // namespace univa::cuda

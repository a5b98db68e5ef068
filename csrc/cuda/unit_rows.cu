// Rows scaled to unit length, one block each. Lengths are in double: float squares overflow early.

#include "cuda/device.cuh"
#include "univa/unit.h"

namespace univa::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;

// The length of a row, in every thread.
template <typename T>
__device__ double length_of(const T* row, int64_t depth, const Shared<double>& shared,
                            const Shared<double>& length) {
  double squared = 0;
  for (int64_t d = threadIdx.x; d < depth; d += kThreads) {
    const double value = widen(row[d]);
    squared += value * value;
  }
  squared = block_sum(squared, shared);
  if (threadIdx.x == 0) {
    length[0] = std::sqrt(squared);
  }
  __syncthreads();
  return length[0];
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 1)
    unit_kernel(const T* rows, int64_t depth, AccumulateType<T>* unit) {
  UNIVA_SHARED(double, shared, kWarps);
  UNIVA_SHARED(double, length, 1);
  const int64_t start = static_cast<int64_t>(blockIdx.x) * depth;
  const double divisor = unit_divisor(length_of(rows + start, depth, shared, length));
  for (int64_t d = threadIdx.x; d < depth; d += kThreads) {
    unit[start + d] = static_cast<AccumulateType<T>>(widen(rows[start + d]) / divisor);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 1)
    backward_kernel(const T* rows, const AccumulateType<T>* unit,
                    const AccumulateType<T>* grad_unit, int64_t depth, T* gradient) {
  using A = AccumulateType<T>;
  UNIVA_SHARED(double, shared, kWarps);
  UNIVA_SHARED(double, length, 1);
  UNIVA_SHARED(double, along, 1);
  const int64_t start = static_cast<int64_t>(blockIdx.x) * depth;
  const double own_length = length_of(rows + start, depth, shared, length);
  double product = 0;
  for (int64_t d = threadIdx.x; d < depth; d += kThreads) {
    product += static_cast<double>(grad_unit[start + d]) * unit[start + d];
  }
  product = block_sum(product, shared);
  if (threadIdx.x == 0) {
    along[0] = product;
  }
  __syncthreads();
  for (int64_t d = threadIdx.x; d < depth; d += kThreads) {
    const double value = through_unit<double>(grad_unit[start + d], unit[start + d], along[0],
                                              own_length);
    gradient[start + d] = narrow<T>(static_cast<A>(value));
  }
}

}  // namespace

const char* launch_unit_rows(Type type, const void* rows, int64_t count, int64_t depth, void* unit,
                             void* stream) {
  if (count == 0 || depth == 0) {
    return nullptr;
  }
  return dispatch(type, [&](auto* element) {
    using T = std::remove_pointer_t<decltype(element)>;
    using A = AccumulateType<T>;
    return launch_kernel(unit_kernel<T>, static_cast<unsigned>(count), kThreads, 0, stream,
                         static_cast<const T*>(rows), depth, static_cast<A*>(unit));
  });
}

const char* launch_unit_rows_backward(Type type, const void* rows, const void* unit,
                                      const void* grad_unit, int64_t count, int64_t depth,
                                      void* gradient, void* stream) {
  if (count == 0 || depth == 0) {
    return nullptr;
  }
  return dispatch(type, [&](auto* element) {
    using T = std::remove_pointer_t<decltype(element)>;
    using A = AccumulateType<T>;
    return launch_kernel(backward_kernel<T>, static_cast<unsigned>(count), kThreads, 0, stream,
                         static_cast<const T*>(rows), static_cast<const A*>(unit),
                         static_cast<const A*>(grad_unit), depth, static_cast<T*>(gradient));
  });
}

}  // namespace univa::cuda

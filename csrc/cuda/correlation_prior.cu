// The emotion-correlation prior: one block per pair of labels sums over the batch, and small
// kernels finish. Labels are few.

#include "cuda/device.cuh"
#include "univa/prior.h"

namespace univa::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

// squared[j, l] = sum_i (y_ij - y_il)^2, one block each.
template <typename T>
__global__ void __launch_bounds__(kThreads, 1)
    squared_kernel(const PriorProblem problem, AccumulateType<T>* squared) {
  using A = AccumulateType<T>;
  UNIVA_SHARED(A, shared, kWarps);
  const int64_t pair = blockIdx.x;
  const T* first = static_cast<const T*>(problem.predictions) + pair / problem.labels;
  const T* second = static_cast<const T*>(problem.predictions) + pair % problem.labels;
  A sum = 0;
  for (int64_t row = threadIdx.x; row < problem.rows; row += kThreads) {
    const A difference = widen(first[row * problem.labels]) - widen(second[row * problem.labels]);
    sum += difference * difference;
  }
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) {
    squared[pair] = sum;
  }
}

// eta, by one block.
template <typename T>
__global__ void __launch_bounds__(kThreads, 1)
    forward_kernel(const PriorProblem problem, const AccumulateType<T>* squared, T* eta) {
  using A = AccumulateType<T>;
  UNIVA_SHARED(A, shared, kWarps);
  const T* similarity = static_cast<const T*>(problem.similarity);
  A sum = 0;
  for (int64_t pair = threadIdx.x; pair < problem.labels * problem.labels; pair += kThreads) {
    sum += widen(similarity[pair]) * prior_distance(squared[pair], problem.norm);
  }
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) {
    *eta = narrow<T>(sum * prior_scale<A>(problem.rows));
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 1)
    grad_similarity_kernel(const PriorProblem problem, const T* upstream,
                           const AccumulateType<T>* squared, T* gradient) {
  using A = AccumulateType<T>;
  const int64_t pair = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (pair < problem.labels * problem.labels) {
    const A scale = widen(*upstream) * prior_scale<A>(problem.rows);
    gradient[pair] = narrow<T>(scale * prior_distance(squared[pair], problem.norm));
  }
}

// One thread per prediction.
template <typename T>
__global__ void __launch_bounds__(kThreads, 1)
    grad_predictions_kernel(const PriorProblem problem, const T* upstream,
                            const AccumulateType<T>* squared, T* gradient) {
  using A = AccumulateType<T>;
  const int64_t element = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t labels = problem.labels;
  if (element >= problem.rows * labels) {
    return;
  }
  const int64_t j = element % labels;
  const T* similarity = static_cast<const T*>(problem.similarity);
  const T* values = static_cast<const T*>(problem.predictions) + (element - j);
  const A value = widen(values[j]);
  A sum = 0;
  for (int64_t l = 0; l < labels; ++l) {
    const A both = widen(similarity[j * labels + l]) + widen(similarity[l * labels + j]);
    const A slope = prior_slope(squared[j * labels + l], problem.norm);
    sum += both * slope * (value - widen(values[l]));
  }
  gradient[element] = narrow<T>(widen(*upstream) * prior_scale<A>(problem.rows) * sum);
}

}  // namespace

const char* launch_prior_forward(const PriorProblem& problem, void* squared, void* eta,
                                 void* stream) {
  return dispatch(problem.type, [&](auto* element) {
    using T = std::remove_pointer_t<decltype(element)>;
    using A = AccumulateType<T>;
    const int64_t pairs = problem.labels * problem.labels;
    if (pairs > 0) {
      if (const char* error = launch_kernel(squared_kernel<T>, static_cast<unsigned>(pairs),
                                            kThreads, 0, stream, problem,
                                            static_cast<A*>(squared))) {
        return error;
      }
    }
    return launch_kernel(forward_kernel<T>, 1, kThreads, 0, stream, problem,
                         static_cast<const A*>(squared), static_cast<T*>(eta));
  });
}

const char* launch_prior_backward(const PriorProblem& problem, const void* upstream, void* squared,
                                  void* grad_predictions, void* grad_similarity, void* stream) {
  const int64_t pairs = problem.labels * problem.labels;
  if (pairs == 0) {
    return nullptr;
  }
  return dispatch(problem.type, [&](auto* element) {
    using T = std::remove_pointer_t<decltype(element)>;
    using A = AccumulateType<T>;
    const T* grad = static_cast<const T*>(upstream);
    A* scratch = static_cast<A*>(squared);
    if (const char* error = launch_kernel(squared_kernel<T>, static_cast<unsigned>(pairs), kThreads,
                                          0, stream, problem, scratch)) {
      return error;
    }
    const char* error =
        launch_kernel(grad_similarity_kernel<T>, blocks_for(pairs, kThreads), kThreads, 0, stream,
                      problem, grad, scratch, static_cast<T*>(grad_similarity));
    if (error != nullptr || problem.rows == 0) {
      return error;
    }
    return launch_kernel(grad_predictions_kernel<T>,
                         blocks_for(problem.rows * problem.labels, kThreads), kThreads, 0, stream,
                         problem, grad, scratch, static_cast<T*>(grad_predictions));
  });
}

}  // namespace univa::cuda

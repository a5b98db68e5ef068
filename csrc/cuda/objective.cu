// What the UniVA objective has besides contrastive losses and the prior: the classification term, a
// warp per row of logits, and one block that puts the terms together, or takes their gradient apart.

#include "cuda/classification.cuh"

namespace univa::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

template <typename T>
__global__ void __launch_bounds__(kThreads, 1)
    rows_kernel(const ObjectiveProblem problem, AccumulateType<T>* row_losses,
                AccumulateType<T>* predictions) {
  using A = AccumulateType<T>;
  const int lane = threadIdx.x % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (row >= problem.rows) {
    return;  // the whole warp
  }
  const Row<T> own = Row<T>::make(problem, row, lane);
  A sum = 0;
  for (int64_t j = lane; j < problem.columns; j += kWarp) {
    const Score<A> score = own.score(j);
    sum += score.loss(problem.classification, own.target(j));
    if (predictions != nullptr) {
      predictions[row * problem.columns + j] = score.prediction(problem.activation);
    }
  }
  sum = warp_sum(sum);
  if (lane == 0) {
    row_losses[row] = sum;
  }
}

// How many rows of a modality have positives; in thread 0.
template <typename A>
__device__ double count_positives(const A* stats, int64_t rows, const Shared<double>& shared) {
  double count = 0;
  for (int64_t row = threadIdx.x; row < rows; row += kThreads) {
    count += stats[kCount * rows + row] == A(0) ? 0.0 : 1.0;
  }
  return block_sum(count, shared);
}

template <typename A>
__device__ double sum_of(const A* values, int64_t count, const Shared<double>& shared) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) {
    sum += values[i];
  }
  return block_sum(sum, shared);
}

// One block.
template <typename A>
__global__ void __launch_bounds__(kThreads, 1)
    terms_kernel(const ObjectiveProblem problem, const Modalities modalities, const A* row_losses,
                 const A* losses, const A* stats, A* terms) {
  UNIVA_SHARED(double, shared, kWarps);
  const int64_t rows = problem.rows;
  double total = 0;  // in thread 0
  if (modalities.first == 0) {
    const double sum = sum_of(row_losses, rows, shared);
    if (threadIdx.x == 0) {
      const double classification =
          sum * classification_scale<double>(problem.classification, rows, problem.columns);
      const double prior = problem.has_prior ? static_cast<double>(terms[kPrior]) : 0.0;
      terms[kClassification] = static_cast<A>(classification);
      terms[kPrior] = static_cast<A>(prior);
      total = (1 - problem.alpha) * (classification + prior);
    }
  } else if (threadIdx.x == 0) {
    total = terms[kTotal];
  }
  for (int64_t i = 0; i < modalities.count; ++i) {
    const int64_t m = modalities.first + i;
    const double sum = sum_of(losses + m * rows, rows, shared);
    const double some = count_positives(stats + m * kStatsRows * rows, rows, shared);
    if (threadIdx.x == 0) {
      const double contrastive = sum / mean_rows(problem.skip_rows, some, rows);
      terms[kContrastive + m] = static_cast<A>(contrastive);
      total += modalities.shares[i] * contrastive;
    }
  }
  if (threadIdx.x == 0) {
    terms[kTotal] = static_cast<A>(total);
  }
}

// One block.
template <typename A>
__global__ void __launch_bounds__(kThreads, 1)
    upstream_kernel(const ObjectiveProblem problem, const Modalities modalities,
                    const A* grad_terms, const A* stats, A* per_row, A* for_logits,
                    A* grad_temperature) {
  UNIVA_SHARED(double, shared, kWarps);
  UNIVA_SHARED(double, mean_upstream, 1);
  const int64_t rows = problem.rows;
  const double of_total = grad_terms[kTotal];
  const bool first = modalities.first == 0;
  if (first && threadIdx.x == 0) {
    const double rest = (1 - problem.alpha) * of_total;
    for_logits[0] = static_cast<A>(grad_terms[kClassification] + rest);
    for_logits[1] = static_cast<A>(grad_terms[kPrior] + rest);
  }
  double by_inverse = 0;  // tau times the gradient of the temperature, sign turned; in thread 0
  for (int64_t i = 0; i < modalities.count; ++i) {
    const int64_t m = modalities.first + i;
    const A* own = stats + m * kStatsRows * rows;
    const double some = count_positives(own, rows, shared);
    if (threadIdx.x == 0) {
      mean_upstream[0] = (grad_terms[kContrastive + m] + modalities.shares[i] * of_total) /
                      mean_rows(problem.skip_rows, some, rows);
    }
    __syncthreads();
    double change = 0;
    for (int64_t row = threadIdx.x; row < rows; row += kThreads) {
      per_row[m * rows + row] = static_cast<A>(mean_upstream[0]);
      change += own[kLogitGap * rows + row];  // 0 without positives
    }
    if (grad_temperature != nullptr) {
      change = block_sum(change, shared);
      by_inverse += mean_upstream[0] * change;
    }
    __syncthreads();  // before mean_upstream changes
  }
  if (grad_temperature != nullptr && threadIdx.x == 0) {
    const double temperature = *static_cast<const A*>(problem.learned_temperature);
    const double before = first ? 0.0 : static_cast<double>(*grad_temperature);
    *grad_temperature = static_cast<A>(before - by_inverse / temperature);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 1)
    logits_kernel(const ObjectiveProblem problem, const AccumulateType<T>* for_logits,
                  const AccumulateType<T>* grad_predictions, T* grad_logits) {
  using A = AccumulateType<T>;
  const int lane = threadIdx.x % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (row >= problem.rows) {
    return;  // the whole warp
  }
  const int64_t columns = problem.columns;
  const Row<T> own = Row<T>::make(problem, row, lane);
  const A* of_predictions = grad_predictions + row * columns;
  const A scale =
      for_logits[0] * classification_scale<A>(problem.classification, problem.rows, columns);
  A sum = 0;
  if (problem.has_prior) {
    for (int64_t j = lane; j < columns; j += kWarp) {
      sum += own.score(j).share(problem.activation, of_predictions[j]);
    }
    sum = warp_sum(sum);
  }
  for (int64_t j = lane; j < columns; j += kWarp) {
    const Score<A> score = own.score(j);
    A gradient = scale * score.slope(problem.classification, own.target(j));
    if (problem.has_prior) {
      gradient += score.through(problem.activation, of_predictions[j], sum);
    }
    grad_logits[row * columns + j] = narrow<T>(gradient);
  }
}

}  // namespace

const char* launch_objective_rows(const ObjectiveProblem& problem, void* row_losses,
                                  void* predictions, void* stream) {
  if (problem.rows == 0) {
    return nullptr;
  }
  return dispatch(problem.type, [&](auto* element) {
    using T = std::remove_pointer_t<decltype(element)>;
    using A = AccumulateType<T>;
    return launch_kernel(rows_kernel<T>, blocks_for(problem.rows, kWarps), kThreads, 0, stream,
                         problem, static_cast<A*>(row_losses), static_cast<A*>(predictions));
  });
}

const char* launch_objective_terms(const ObjectiveProblem& problem, const Modalities& modalities,
                                   const void* row_losses, const void* losses, const void* stats,
                                   void* terms, void* stream) {
  return dispatch_accumulate(problem.type, [&](auto* element) {
    using A = std::remove_pointer_t<decltype(element)>;
    return launch_kernel(terms_kernel<A>, 1, kThreads, 0, stream, problem, modalities,
                         static_cast<const A*>(row_losses), static_cast<const A*>(losses),
                         static_cast<const A*>(stats), static_cast<A*>(terms));
  });
}

const char* launch_objective_upstream(const ObjectiveProblem& problem,
                                      const Modalities& modalities, const void* grad_terms,
                                      const void* stats, void* per_row, void* for_logits,
                                      void* grad_temperature, void* stream) {
  return dispatch_accumulate(problem.type, [&](auto* element) {
    using A = std::remove_pointer_t<decltype(element)>;
    return launch_kernel(upstream_kernel<A>, 1, kThreads, 0, stream, problem, modalities,
                         static_cast<const A*>(grad_terms), static_cast<const A*>(stats),
                         static_cast<A*>(per_row), static_cast<A*>(for_logits),
                         static_cast<A*>(grad_temperature));
  });
}

const char* launch_objective_logits(const ObjectiveProblem& problem, const void* for_logits,
                                    const void* grad_predictions, void* grad_logits, void* stream) {
  if (problem.rows == 0 || problem.columns == 0) {
    return nullptr;
  }
  return dispatch(problem.type, [&](auto* element) {
    using T = std::remove_pointer_t<decltype(element)>;
    using A = AccumulateType<T>;
    return launch_kernel(logits_kernel<T>, blocks_for(problem.rows, kWarps), kThreads, 0, stream,
                         problem, static_cast<const A*>(for_logits),
                         static_cast<const A*>(grad_predictions), static_cast<T*>(grad_logits));
  });
}

}  // namespace univa::cuda

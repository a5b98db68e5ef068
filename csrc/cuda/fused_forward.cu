// The objective's forward in one launch: every block leaves its sums, and the last one to finish
// puts the terms together.

#include "cuda/fused.cuh"

namespace univa::cuda {

namespace {

// Sums of one block, two doubles: of the losses and of the rows with positives; block 0: the
// classification term and the prior.
struct Partial {
  double* data;

  __device__ void put(double first, double second) const {
    data[2 * blockIdx.x] = first;
    data[2 * blockIdx.x + 1] = second;
  }
  __device__ double get(int64_t block, int which) const { return __ldcg(data + 2 * block + which); }
};

template <typename T>
__device__ void classify(const FusedProblem& problem, const Partial& partial,
                         const Shared<double>& shared) {
  using A = AccumulateType<T>;
  const ObjectiveProblem& objective = problem.objective;
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int rows = static_cast<int>(objective.rows);
  const int columns = static_cast<int>(objective.columns);
  const auto memory = FusedLabels<A>::make(objective);
  double sum = 0;  // of the warp's rows, in lane 0
  for (int row = warp; row < rows; row += kFusedWarps) {
    const Row<T> own = Row<T>::make(objective, row, lane);
    A losses = 0;
    for (int j = lane; j < columns; j += kWarp) {
      const Score<A> score = own.score(j);
      losses += score.loss(objective.classification, own.target(j));
      if (objective.has_prior) {
        memory.predictions[row * columns + j] = score.prediction(objective.activation);
      }
    }
    losses = warp_sum(losses);
    sum += lane == 0 ? static_cast<double>(losses) : 0.0;
  }
  sum = block_sum(sum, shared);
  double prior = 0;
  if (objective.has_prior) {
    const T* similarity = static_cast<const T*>(problem.similarity);
    for (int pair = warp; pair < columns * columns; pair += kFusedWarps) {
      const A distance =
          prior_distance(memory.squared(pair, rows, columns, lane), problem.norm);
      prior += lane == 0 ? static_cast<double>(widen(similarity[pair]) * distance) : 0.0;
    }
    prior = block_sum(prior, shared) * prior_scale<double>(rows);
  }
  if (threadIdx.x == 0) {
    partial.put(sum * classification_scale<double>(objective.classification, rows, columns), prior);
  }
}

template <typename T>
__device__ void contrast(const FusedProblem& problem, AccumulateType<T>* stats,
                         const Partial& partial, const Shared<double>& shared) {
  using A = AccumulateType<T>;
  const int64_t block = blockIdx.x - 1;
  const int64_t m = block / problem.blocks;
  const auto rows = FusedRows<T>::make(problem, m, block % problem.blocks);
  rows.compute();
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int64_t own = rows.first + warp;
  const int64_t count = rows.problem.rows;
  const A inverse_temperature = inverse_temperature_of<A>(rows.problem);
  RowState<A> state;
  for (int64_t column = lane; own < count && column < count; column += kWarp) {
    const A dot = rows.dots[static_cast<int>(column) * kFusedRows + warp];
    take(state, make_pair(rows.problem, own, column, dot, inverse_temperature));
  }
  state = merge_lanes(state, kWarp);
  state.drop_vanishing_positives(least_count<A>());
  double loss = 0;
  double with_positives = 0;
  if (lane == 0 && own < count) {
    store_row(state, own, count, stats + m * kStatsRows * count);
    loss = state.loss();
    with_positives = state.sum_k == A(0) ? 0.0 : 1.0;
  }
  loss = block_sum(loss, shared);
  with_positives = block_sum(with_positives, shared);
  if (threadIdx.x == 0) {
    partial.put(loss, with_positives);
  }
}

// By the last block: everything is there.
template <typename A>
__device__ void finish(const FusedProblem& problem, const Partial& partial, A* terms,
                       const Shared<double>& contrastive) {
  const ObjectiveProblem& objective = problem.objective;
  const int m = threadIdx.x;
  if (m < problem.count) {
    double sum = 0;
    double with_positives = 0;
    for (int64_t block = 0; block < problem.blocks; ++block) {
      sum += partial.get(1 + m * problem.blocks + block, 0);
      with_positives += partial.get(1 + m * problem.blocks + block, 1);
    }
    const double term = sum / mean_rows(objective.skip_rows, with_positives, objective.rows);
    contrastive[m] = term;
    terms[kContrastive + m] = static_cast<A>(term);
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    const double classification = partial.get(0, 0);
    const double prior = partial.get(0, 1);
    double total = (1 - objective.alpha) * (classification + prior);
    for (int i = 0; i < problem.count; ++i) {
      total += problem.shares[i] * contrastive[i];
    }
    terms[kTotal] = static_cast<A>(total);
    terms[kClassification] = static_cast<A>(classification);
    terms[kPrior] = static_cast<A>(prior);
  }
}

template <typename T>
__global__ void __launch_bounds__(kFusedThreads, 1)
    fused_forward_kernel(const __grid_constant__ FusedProblem problem, AccumulateType<T>* terms,
                         AccumulateType<T>* stats, const Partial partial, unsigned* ticket) {
  UNIVA_SHARED(double, shared, kFusedWarps);
  UNIVA_SHARED(double, contrastive, kFusedModalities);
  UNIVA_SHARED(int, is_last, 1);
  if (blockIdx.x == 0) {
    classify<T>(problem, partial, shared);
  } else {
    contrast<T>(problem, stats, partial, shared);
  }
  if (threadIdx.x == 0) {
    __threadfence();  // the sums come before the ticket
    is_last[0] = atomicAdd(ticket, 1u) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  if (is_last[0] != 0) {
    finish(problem, partial, terms, contrastive);
  }
}

}  // namespace

const char* shared_memory_limit(int* bytes) {
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  }
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

const char* launch_fused_forward(const FusedProblem& problem, int64_t shared_bytes, void* terms,
                                 void* stats, void* partial, void* stream) {
  const int64_t blocks = problem.count * problem.blocks + 1;
  double* sums = static_cast<double*>(partial);
  unsigned* ticket = reinterpret_cast<unsigned*>(sums + 2 * blocks);
  const cudaError_t error =
      cudaMemsetAsync(ticket, 0, sizeof *ticket, static_cast<cudaStream_t>(stream));
  if (error != cudaSuccess) {
    return cudaGetErrorString(error);
  }
  return dispatch(problem.objective.type, [&](auto* element) {
    using T = std::remove_pointer_t<decltype(element)>;
    using A = AccumulateType<T>;
    return launch_kernel(fused_forward_kernel<T>, static_cast<unsigned>(blocks), kFusedThreads,
                         shared_bytes, stream, problem, static_cast<A*>(terms),
                         static_cast<A*>(stats), Partial{sums}, ticket);
  });
}

}  // namespace univa::cuda

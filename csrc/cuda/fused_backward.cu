// The objective's backward in one launch. Blocks share nothing: each computes its inner products
// again, and what it needs of the whole batch, from the kept statistics.

#include "cuda/fused.cuh"

namespace univa::cuda {

namespace {

template <typename A>
struct FusedGradients {
  const A* terms;  // upstream, [3 + M]
  const A* stats;  // [M, 4, B]
  void* logits;
  void* similarity;
  A* temperature;  // null where none is learned

  // Upstream of each row's loss of modality m, in thread 0.
  __device__ double of_rows(const FusedProblem& problem, int64_t m,
                            const Shared<double>& shared) const {
    const ObjectiveProblem& objective = problem.objective;
    const double some =
        count_positives(stats + m * kStatsRows * objective.rows, objective.rows, shared);
    return (terms[kContrastive + m] + problem.shares[m] * terms[kTotal]) /
           mean_rows(objective.skip_rows, some, objective.rows);
  }
};

template <typename T>
__device__ void classify(const FusedProblem& problem, const FusedGradients<AccumulateType<T>>& own) {
  using A = AccumulateType<T>;
  const ObjectiveProblem& objective = problem.objective;
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int rows = static_cast<int>(objective.rows);
  const int columns = static_cast<int>(objective.columns);
  const auto memory = FusedLabels<A>::make(objective);
  const double rest = (1 - objective.alpha) * own.terms[kTotal];
  if (objective.has_prior) {
    for (int row = warp; row < rows; row += kFusedWarps) {
      const Row<T> scores = Row<T>::make(objective, row, lane);
      for (int j = lane; j < columns; j += kWarp) {
        memory.predictions[row * columns + j] = scores.score(j).prediction(objective.activation);
      }
    }
    __syncthreads();
    const T* similarity = static_cast<const T*>(problem.similarity);
    const A scale = static_cast<A>((own.terms[kPrior] + rest) * prior_scale<double>(rows));
    for (int pair = warp; pair < columns * columns; pair += kFusedWarps) {
      const A squared = memory.squared(pair, rows, columns, lane);
      if (lane == 0) {
        const int turned = pair % columns * columns + pair / columns;
        const A both = widen(similarity[pair]) + widen(similarity[turned]);
        memory.pairs[pair] = scale * both * prior_slope(squared, problem.norm);
        static_cast<T*>(own.similarity)[pair] =
            narrow<T>(scale * prior_distance(squared, problem.norm));
      }
    }
    __syncthreads();
    for (int element = threadIdx.x; element < rows * columns; element += kFusedThreads) {
      const int j = element % columns;
      const A value = memory.predictions[element];
      A sum = 0;
      for (int l = 0; l < columns; ++l) {
        sum += memory.pairs[j * columns + l] *
               (value - static_cast<A>(memory.predictions[element - j + l]));
      }
      memory.gradients[element] = sum;
    }
    __syncthreads();
  }
  const A scale = static_cast<A>(
      (own.terms[kClassification] + rest) *
      classification_scale<double>(objective.classification, rows, columns));
  for (int row = warp; row < rows; row += kFusedWarps) {
    const Row<T> scores = Row<T>::make(objective, row, lane);
    A sum = 0;
    if (objective.has_prior) {
      for (int j = lane; j < columns; j += kWarp) {
        sum += scores.score(j).share(objective.activation, memory.gradients[row * columns + j]);
      }
      sum = warp_sum(sum);
    }
    for (int j = lane; j < columns; j += kWarp) {
      const Score<A> score = scores.score(j);
      A gradient = scale * score.slope(objective.classification, scores.target(j));
      if (objective.has_prior) {
        gradient +=
            score.through(objective.activation, memory.gradients[row * columns + j], sum);
      }
      static_cast<T*>(own.logits)[row * columns + j] = narrow<T>(gradient);
    }
  }
}

// Of the temperature, from the statistics of all rows.
template <typename A>
__device__ void warm(const FusedProblem& problem, const FusedGradients<A>& own,
                     const Shared<double>& shared) {
  const int64_t rows = problem.objective.rows;
  double by_inverse = 0;  // tau times the gradient, sign turned; in thread 0
  for (int64_t m = 0; m < problem.count; ++m) {
    const double upstream = own.of_rows(problem, m, shared);
    double change = 0;
    for (int64_t row = threadIdx.x; row < rows; row += kFusedThreads) {
      change += own.stats[(m * kStatsRows + kLogitGap) * rows + row];  // 0 without positives
    }
    by_inverse += upstream * block_sum(change, shared);
  }
  if (threadIdx.x == 0) {
    const double temperature = *static_cast<const A*>(problem.objective.learned_temperature);
    *own.temperature = static_cast<A>(-by_inverse / temperature);
  }
}

template <typename T>
__device__ void contrast(const FusedProblem& problem, const FusedGradients<AccumulateType<T>>& own,
                         const Shared<double>& shared, const Shared<double>& of_rows,
                         const Shared<double>& along) {
  using A = AccumulateType<T>;
  const int64_t block = blockIdx.x - 1;
  const int64_t m = block / problem.blocks;
  const auto rows = FusedRows<T>::make(problem, m, block % problem.blocks);
  rows.compute();
  const double upstream = own.of_rows(problem, m, shared);
  if (threadIdx.x == 0) {
    of_rows[0] = upstream;
  }
  __syncthreads();
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int count = static_cast<int>(rows.problem.rows);
  const int depth = static_cast<int>(rows.problem.depth);
  const A* stats = own.stats + m * kStatsRows * count;
  const A inverse_temperature = inverse_temperature_of<A>(rows.problem);
  const A mean_upstream = static_cast<A>(of_rows[0]);
  const auto gradient_of = [&](int64_t row) {
    return RowGradient<A>::make(mean_upstream, stats[kLogZ * count + row],
                                stats[kCount * count + row]);
  };
  // Coefficients take the place of inner products.
  const int64_t row = rows.first + warp;
  double product = 0;  // of the scaled row and its gradient
  for (int column = lane; column < count; column += kWarp) {
    const int place = column * kFusedRows + warp;
    A coefficient = 0;
    if (row < count) {
      const A dot = rows.dots[place];
      const Pair<A> pair = make_pair(rows.problem, row, column, dot, inverse_temperature);
      if (pair.counts) {
        coefficient = (gradient_of(row).coefficient(pair.z, pair.positive) +
                       gradient_of(column).coefficient(pair.z, pair.positive)) *
                      inverse_temperature;
      }
      product += static_cast<double>(coefficient) * dot;
    }
    rows.dots[place] = coefficient;
  }
  product = warp_sum(product);
  if (lane == 0) {
    along[warp] = product;
  }
  __syncthreads();
  T* gradient = static_cast<T*>(problem.gradients[m]);
  for (int d = threadIdx.x; d < depth; d += kFusedThreads) {
    A sums[kFusedRows] = {};
#pragma unroll 4
    for (int column = 0; column < count; ++column) {
      const A value = rows.scaled(rows.row(column)[d], rows.scale_of(column));
#pragma unroll
      for (int r = 0; r < kFusedRows; ++r) {
        sums[r] += rows.dots[column * kFusedRows + r] * value;
      }
    }
#pragma unroll
    for (int r = 0; r < kFusedRows; ++r) {
      const int64_t index = rows.first + r;
      if (index < count) {
        A sum = sums[r];
        if (rows.normalize) {
          sum = static_cast<A>(through_unit<double>(sum, rows.rows[r * depth + d], along[r],
                                                    rows.lengths[static_cast<int>(index)]));
        }
        gradient[index * depth + d] = narrow<T>(sum);
      }
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kFusedThreads, 1)
    fused_backward_kernel(const __grid_constant__ FusedProblem problem,
                          const FusedGradients<AccumulateType<T>> own) {
  UNIVA_SHARED(double, shared, kFusedWarps);
  UNIVA_SHARED(double, of_rows, 1);
  UNIVA_SHARED(double, along, kFusedRows);
  if (blockIdx.x > 0) {
    contrast<T>(problem, own, shared, of_rows, along);
    return;
  }
  classify<T>(problem, own);
  if (own.temperature != nullptr) {
    warm(problem, own, shared);
  }
}

}  // namespace

const char* launch_fused_backward(const FusedProblem& problem, int64_t shared_bytes,
                                  const void* grad_terms, const void* stats, void* grad_logits,
                                  void* grad_similarity, void* grad_temperature, void* stream) {
  const int64_t blocks = problem.count * problem.blocks + 1;
  return dispatch(problem.objective.type, [&](auto* element) {
    using T = std::remove_pointer_t<decltype(element)>;
    using A = AccumulateType<T>;
    const FusedGradients<A> own{static_cast<const A*>(grad_terms), static_cast<const A*>(stats),
                                grad_logits, grad_similarity, static_cast<A*>(grad_temperature)};
    return launch_kernel(fused_backward_kernel<T>, static_cast<unsigned>(blocks), kFusedThreads,
                         shared_bytes, stream, problem, own);
  });
}

}  // namespace univa::cuda

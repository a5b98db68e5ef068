// The emotion-correlation prior on the CPU. Labels are few: [L, L] scratch, in double throughout.
#pragma once

#include <vector>

#include "arguments.h"
#include "cpu/matrix.h"
#include "univa/prior.h"

namespace univa::cpu {

struct PriorSize {
  int64_t rows;    // N
  int64_t labels;  // L
  bool norm;
};

// sum_i (y_ij - y_il)^2 for every pair of labels, [L, L].
template <typename T>
std::vector<double> squared_distances(const T* predictions, int64_t rows, int64_t labels) {
  std::vector<double> squared(labels * labels, 0.0);
  const int64_t grain = row_grain(rows * labels);
  torch::stable::parallel_for(0, labels, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = 0; row < rows; ++row) {
      const T* values = predictions + row * labels;
      for (int64_t j = begin; j < end; ++j) {
        double* sums = squared.data() + j * labels;
        const double value = values[j];
        for (int64_t l = 0; l < labels; ++l) {
          const double difference = value - values[l];
          sums[l] += difference * difference;
        }
      }
    }
  });
  return squared;
}

// eta, from predictions [N, L] and similarity [L, L].
template <typename T, typename M>
double prior_value(const PriorSize& size, const T* predictions, const M* similarity) {
  const std::vector<double> squared = squared_distances(predictions, size.rows, size.labels);
  double sum = 0;
  for (size_t pair = 0; pair < squared.size(); ++pair) {
    sum += similarity[pair] * prior_distance(squared[pair], size.norm);
  }
  return sum * prior_scale<double>(size.rows);
}

// The gradients of both, given that of eta.
template <typename T, typename M>
void prior_gradients(const PriorSize& size, double upstream, const T* predictions,
                     const M* similarity, T* grad_predictions, M* grad_similarity) {
  const int64_t rows = size.rows;
  const int64_t labels = size.labels;
  const double scale = upstream * prior_scale<double>(rows);
  const std::vector<double> squared = squared_distances(predictions, rows, labels);
  std::vector<double> weights(labels * labels);
  for (int64_t j = 0; j < labels; ++j) {
    for (int64_t l = 0; l < labels; ++l) {
      const int64_t pair = j * labels + l;
      const double both = static_cast<double>(similarity[pair]) + similarity[l * labels + j];
      weights[pair] = scale * both * prior_slope(squared[pair], size.norm);
      grad_similarity[pair] = static_cast<M>(scale * prior_distance(squared[pair], size.norm));
    }
  }
  torch::stable::parallel_for(0, rows, row_grain(labels * labels), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* values = predictions + row * labels;
      for (int64_t j = 0; j < labels; ++j) {
        const double* weight = weights.data() + j * labels;
        double sum = 0;
        for (int64_t l = 0; l < labels; ++l) {
          sum += weight[l] * (static_cast<double>(values[j]) - values[l]);
        }
        grad_predictions[row * labels + j] = static_cast<T>(sum);
      }
    }
  });
}

}  // namespace univa::cpu

// The emotion-correlation prior on the CPU. Labels are few: [L, L] scratch, in double throughout.

#include <vector>

#include "arguments.h"
#include "cpu/matrix.h"
#include "univa/prior.h"

namespace univa::cpu {

namespace {

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

template <typename T>
double forward(const PriorArguments& arguments, const T* predictions, const T* similarity) {
  const bool norm = arguments.form == PriorForm::kNorm;
  const std::vector<double> squared =
      squared_distances(predictions, arguments.rows, arguments.labels);
  double sum = 0;
  for (size_t pair = 0; pair < squared.size(); ++pair) {
    sum += similarity[pair] * prior_distance(squared[pair], norm);
  }
  return sum * prior_scale<double>(arguments.rows);
}

template <typename T>
void backward(const PriorArguments& arguments, T upstream, const T* predictions,
              const T* similarity, T* grad_predictions, T* grad_similarity) {
  const bool norm = arguments.form == PriorForm::kNorm;
  const int64_t rows = arguments.rows;
  const int64_t labels = arguments.labels;
  const double scale = upstream * prior_scale<double>(rows);
  const std::vector<double> squared = squared_distances(predictions, rows, labels);
  std::vector<double> weights(labels * labels);
  for (int64_t j = 0; j < labels; ++j) {
    for (int64_t l = 0; l < labels; ++l) {
      const int64_t pair = j * labels + l;
      const double both = static_cast<double>(similarity[pair]) + similarity[l * labels + j];
      weights[pair] = scale * both * prior_slope(squared[pair], norm);
      grad_similarity[pair] = static_cast<T>(scale * prior_distance(squared[pair], norm));
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

template <typename T>
const T* data(const Tensor& tensor) {
  return tensor.const_data_ptr<T>();
}

}  // namespace

Tensor correlation_prior_forward(const Tensor& predictions, const Tensor& similarity,
                                 const std::string& form) {
  const PriorArguments arguments = check_prior(predictions, similarity, form);
  const ScalarType type = predictions.scalar_type();
  const ScalarType wide = accumulate_type(type);
  const Tensor y = converted(arguments.predictions, wide);
  const Tensor m = converted(arguments.similarity, wide);
  const double eta = wide == ScalarType::Double
                         ? forward(arguments, data<double>(y), data<double>(m))
                         : forward(arguments, data<float>(y), data<float>(m));
  Tensor result = torch::stable::new_empty(arguments.predictions, {}, type);
  return torch::stable::fill_(result, eta);
}

std::tuple<Tensor, Tensor> correlation_prior_backward(const Tensor& grad, const Tensor& predictions,
                                                      const Tensor& similarity,
                                                      const std::string& form) {
  const PriorArguments arguments = check_prior(predictions, similarity, form);
  const ScalarType type = predictions.scalar_type();
  const ScalarType wide = accumulate_type(type);
  const Tensor upstream = converted(check_prior_backward(arguments, grad), wide);
  const Tensor y = converted(arguments.predictions, wide);
  const Tensor m = converted(arguments.similarity, wide);
  Tensor grad_y = torch::stable::empty_like(y);
  Tensor grad_m = torch::stable::empty_like(m);
  if (wide == ScalarType::Double) {
    backward(arguments, *data<double>(upstream), data<double>(y), data<double>(m),
             grad_y.mutable_data_ptr<double>(), grad_m.mutable_data_ptr<double>());
  } else {
    backward(arguments, *data<float>(upstream), data<float>(y), data<float>(m),
             grad_y.mutable_data_ptr<float>(), grad_m.mutable_data_ptr<float>());
  }
  return {converted(grad_y, type), converted(grad_m, type)};
}

}  // namespace univa::cpu

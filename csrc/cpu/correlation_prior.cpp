// The ops of the emotion-correlation prior on the CPU.

#include "cpu/prior.h"

namespace univa::cpu {

namespace {

template <typename T>
const T* data(const Tensor& tensor) {
  return tensor.const_data_ptr<T>();
}

PriorSize size_of(const PriorArguments& arguments) {
  return {arguments.rows, arguments.labels, arguments.form == PriorForm::kNorm};
}

}  // namespace

Tensor correlation_prior_forward(const Tensor& predictions, const Tensor& similarity,
                                 const std::string& form) {
  const PriorArguments arguments = check_prior(predictions, similarity, form);
  const ScalarType type = predictions.scalar_type();
  const ScalarType wide = accumulate_type(type);
  const Tensor y = converted(arguments.predictions, wide);
  const Tensor m = converted(arguments.similarity, wide);
  const PriorSize size = size_of(arguments);
  const double eta = wide == ScalarType::Double
                         ? prior_value(size, data<double>(y), data<double>(m))
                         : prior_value(size, data<float>(y), data<float>(m));
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
  const PriorSize size = size_of(arguments);
  if (wide == ScalarType::Double) {
    prior_gradients(size, *data<double>(upstream), data<double>(y), data<double>(m),
                    grad_y.mutable_data_ptr<double>(), grad_m.mutable_data_ptr<double>());
  } else {
    prior_gradients(size, *data<float>(upstream), data<float>(y), data<float>(m),
                    grad_y.mutable_data_ptr<float>(), grad_m.mutable_data_ptr<float>());
  }
  return {converted(grad_y, type), converted(grad_m, type)};
}

}  // namespace univa::cpu

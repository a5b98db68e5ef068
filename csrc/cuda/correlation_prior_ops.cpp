// The emotion-correlation prior on CUDA tensors: allocation, device and stream.

#include "cuda/tensors.h"

namespace univa::cuda {

namespace {

PriorProblem problem_of(const PriorArguments& arguments) {
  STD_TORCH_CHECK(arguments.labels <= kMaxLabels, "at most ", kMaxLabels, " labels on CUDA");
  return {type_of(arguments.predictions),
          arguments.predictions.const_data_ptr(),
          arguments.similarity.const_data_ptr(),
          arguments.rows,
          arguments.labels,
          arguments.form == PriorForm::kNorm};
}

Tensor pair_scratch(const PriorArguments& arguments) {
  return torch::stable::new_empty(arguments.predictions, {arguments.labels, arguments.labels},
                                  accumulate_type(arguments.predictions.scalar_type()));
}

}  // namespace

Tensor correlation_prior_forward(const Tensor& predictions, const Tensor& similarity,
                                 const std::string& form) {
  const DeviceGuard guard(predictions.get_device_index());
  const PriorArguments arguments = check_prior(predictions, similarity, form);
  Tensor squared = pair_scratch(arguments);
  Tensor eta = torch::stable::new_empty(arguments.predictions, {});
  check(launch_prior_forward(problem_of(arguments), squared.mutable_data_ptr(),
                             eta.mutable_data_ptr(),
                             current_stream(predictions.get_device_index())),
        "correlation_prior_forward");
  return eta;
}

std::tuple<Tensor, Tensor> correlation_prior_backward(const Tensor& grad, const Tensor& predictions,
                                                      const Tensor& similarity,
                                                      const std::string& form) {
  const DeviceGuard guard(predictions.get_device_index());
  const PriorArguments arguments = check_prior(predictions, similarity, form);
  const Tensor upstream = check_prior_backward(arguments, grad);
  Tensor squared = pair_scratch(arguments);
  Tensor grad_predictions = torch::stable::empty_like(arguments.predictions);
  Tensor grad_similarity = torch::stable::empty_like(arguments.similarity);
  check(launch_prior_backward(problem_of(arguments), upstream.const_data_ptr(),
                              squared.mutable_data_ptr(), grad_predictions.mutable_data_ptr(),
                              grad_similarity.mutable_data_ptr(),
                              current_stream(predictions.get_device_index())),
        "correlation_prior_backward");
  return {grad_predictions, grad_similarity};
}

}  // namespace univa::cuda

// The UniVA objective on CUDA tensors: its parts one after the other on the current stream, their
// intermediate values in scratch.

#include <algorithm>

#include "cuda/tensors.h"
#include "univa/reduction.h"

namespace univa::cuda {

namespace {

// The objective of one call, and the scratch that both directions need.
class Objective {
 public:
  Objective(const ObjectiveArguments& arguments, void* stream)
      : arguments_(arguments),
        stream_(stream),
        labels_(converted(arguments.labels, arguments.wide)) {
    STD_TORCH_CHECK(arguments.columns <= kMaxLabels && arguments.rows <= kMaxRows, "at most ",
                    kMaxLabels, " labels and ", kMaxRows, " rows of logits on CUDA");
    problem_.type = type_of(arguments.logits);
    problem_.logits = arguments.logits.const_data_ptr();
    problem_.labels = labels_.const_data_ptr();
    problem_.rows = arguments.rows;
    problem_.columns = arguments.columns;
    problem_.classification = arguments.classification;
    problem_.has_prior = arguments.has_prior();
    problem_.activation = arguments.activation();
    problem_.alpha = arguments.alpha;
    problem_.skip_rows = arguments.skip_rows;
    problem_.learned_temperature = data_or_null(arguments.learned_temperature);
  }

  void forward(const Tensor& terms, const Tensor& stats) const;

  std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> backward(const Tensor& grad_terms,
                                                                   const Tensor& stats) const;

 private:
  Tensor scratch(std::initializer_list<int64_t> sizes) const {
    return torch::stable::new_empty(arguments_.logits, {sizes.begin(), sizes.size()},
                                    arguments_.wide);
  }

  // Calls launch with the modalities in groups, at least once.
  template <typename Launch>
  void for_modalities(const Launch& launch) const {
    const std::vector<double>& shares = arguments_.shares;
    const int64_t count = static_cast<int64_t>(shares.size());
    for (int64_t first = 0; first == 0 || first < count; first += kModalities) {
      Modalities some{};
      some.first = first;
      some.count = std::min<int64_t>(kModalities, count - first);
      std::copy_n(shares.begin() + first, some.count, some.shares);
      launch(some);
    }
  }

  // Element `index` of a contiguous tensor of the accumulate type.
  void* at(const Tensor& tensor, int64_t index) const {
    const int64_t size = arguments_.wide == ScalarType::Double ? 8 : 4;
    return static_cast<char*>(tensor.mutable_data_ptr()) + index * size;
  }

  PriorProblem prior(const Tensor& predictions, const Tensor& similarity) const {
    return {type_of(predictions),
            predictions.const_data_ptr(),
            similarity.const_data_ptr(),
            arguments_.rows,
            arguments_.columns,
            arguments_.form == PriorForm::kNorm};
  }

  // Sums of the classification term and, with a prior, the predictions that it sees.
  void rows(const Tensor& row_losses, const Tensor& predictions, const char* op) const {
    check(launch_objective_rows(
              problem_, row_losses.mutable_data_ptr(),
              arguments_.has_prior() ? predictions.mutable_data_ptr() : nullptr, stream_),
          op);
  }

  const ObjectiveArguments& arguments_;
  void* stream_;
  Tensor labels_;  // in the accumulate type
  ObjectiveProblem problem_{};
};

void Objective::forward(const Tensor& terms, const Tensor& stats) const {
  constexpr const char* kOp = "objective_forward";
  const int64_t rows = arguments_.rows;
  const int64_t labels = arguments_.columns;
  const bool has_prior = arguments_.has_prior();
  const int64_t count = static_cast<int64_t>(arguments_.modalities.size());
  const Tensor row_losses = scratch({rows});
  const Tensor predictions = scratch({has_prior ? rows : 0, labels});
  this->rows(row_losses, predictions, kOp);
  if (has_prior) {
    const Tensor similarity = converted(*arguments_.similarity, arguments_.wide);
    const Tensor squared = scratch({labels, labels});
    check(launch_prior_forward(prior(predictions, similarity), squared.mutable_data_ptr(),
                               at(terms, kPrior), stream_),
          kOp);
  }
  const Tensor losses = scratch({count, rows});
  for (int64_t m = 0; m < count; ++m) {
    contrastive_losses(arguments_.modalities[m], at(losses, m * rows),
                       at(stats, m * kStatsRows * rows), stream_);
  }
  for_modalities([&](const Modalities& some) {
    check(launch_objective_terms(problem_, some, row_losses.const_data_ptr(),
                                 losses.const_data_ptr(), stats.const_data_ptr(),
                                 terms.mutable_data_ptr(), stream_),
          kOp);
  });
}

std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> Objective::backward(
    const Tensor& grad_terms, const Tensor& stats) const {
  constexpr const char* kOp = "objective_backward";
  const int64_t rows = arguments_.rows;
  const int64_t labels = arguments_.columns;
  const bool has_prior = arguments_.has_prior();
  const bool learned = arguments_.learned_temperature.has_value();
  const int64_t count = static_cast<int64_t>(arguments_.modalities.size());

  const Tensor per_row = scratch({count, rows});
  const Tensor for_logits = scratch({2});
  Tensor grad_temperature = learned ? scratch({}) : scratch({0});
  for_modalities([&](const Modalities& some) {
    check(launch_objective_upstream(
              problem_, some, grad_terms.const_data_ptr(), stats.const_data_ptr(),
              per_row.mutable_data_ptr(), for_logits.mutable_data_ptr(),
              learned ? grad_temperature.mutable_data_ptr() : nullptr, stream_),
          kOp);
  });

  std::vector<Tensor> grad_embeddings;
  for (int64_t m = 0; m < count; ++m) {
    grad_embeddings.push_back(std::get<0>(
        contrastive_gradients(arguments_.modalities[m], at(per_row, m * rows),
                              at(stats, m * kStatsRows * rows), stream_)));
  }

  Tensor grad_similarity = has_prior ? scratch({labels, labels}) : scratch({0});
  const Tensor grad_predictions = scratch({has_prior ? rows : 0, labels});
  if (has_prior) {
    const Tensor row_losses = scratch({rows});
    const Tensor predictions = scratch({rows, labels});
    this->rows(row_losses, predictions, kOp);
    const Tensor similarity = converted(*arguments_.similarity, arguments_.wide);
    const Tensor squared = scratch({labels, labels});
    check(launch_prior_backward(prior(predictions, similarity), at(for_logits, 1),
                                squared.mutable_data_ptr(), grad_predictions.mutable_data_ptr(),
                                grad_similarity.mutable_data_ptr(), stream_),
          kOp);
  }
  Tensor grad_logits = torch::stable::empty_like(arguments_.logits);
  check(launch_objective_logits(problem_, for_logits.const_data_ptr(),
                                grad_predictions.const_data_ptr(), grad_logits.mutable_data_ptr(),
                                stream_),
        kOp);
  return {grad_logits, converted(grad_similarity, arguments_.logits.scalar_type()),
          grad_temperature, grad_embeddings};
}

}  // namespace

std::tuple<Tensor, Tensor> objective_forward(
    const Tensor& logits, const Tensor& labels, const OptionalTensor& similarity,
    const std::vector<Tensor>& embeddings, const std::vector<Tensor>& coordinates,
    const std::vector<double>& weights, const OptionalTensor& learned_temperature,
    double temperature, double radius, double sigma, double alpha, double self_weight,
    bool skip_rows, bool normalize, const std::string& classification, const std::string& prior) {
  const DeviceGuard guard(logits.get_device_index());
  const ObjectiveArguments arguments = check_objective(
      logits, labels, similarity, embeddings, coordinates, weights,
      {learned_temperature, temperature, radius, sigma, self_weight, 0, false, normalize}, alpha,
      skip_rows, classification, prior);
  const int64_t count = static_cast<int64_t>(embeddings.size());
  Tensor terms = torch::stable::new_empty(arguments.logits, {kContrastive + count}, arguments.wide);
  Tensor stats = torch::stable::new_empty(arguments.logits, {count, kStatsRows, arguments.rows},
                                          arguments.wide);
  Objective(arguments, current_stream(logits.get_device_index())).forward(terms, stats);
  return {terms, stats};
}

std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> objective_backward(
    const Tensor& grad_terms, const Tensor& logits, const Tensor& labels,
    const OptionalTensor& similarity, const std::vector<Tensor>& embeddings,
    const std::vector<Tensor>& coordinates, const OptionalTensor& learned_temperature,
    const Tensor& stats, const std::vector<double>& weights, double temperature, double radius,
    double sigma, double alpha, double self_weight, bool skip_rows, bool normalize,
    const std::string& classification, const std::string& prior) {
  const DeviceGuard guard(logits.get_device_index());
  const ObjectiveArguments arguments = check_objective(
      logits, labels, similarity, embeddings, coordinates, weights,
      {learned_temperature, temperature, radius, sigma, self_weight, 0, false, normalize}, alpha,
      skip_rows, classification, prior);
  const auto [upstream, kept] = check_objective_backward(arguments, grad_terms, stats);
  return Objective(arguments, current_stream(logits.get_device_index())).backward(upstream, kept);
}

}  // namespace univa::cuda

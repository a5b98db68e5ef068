// The UniVA objective on CUDA tensors: in one launch each way where the plan says so, else its parts
// one after the other on the current stream, their intermediate values in scratch.

#include <algorithm>

#include "cuda/plan.h"
#include "cuda/tensors.h"
#include "univa/reduction.h"

namespace univa::cuda {

namespace {

// None where the kernels read no labels of this type.
std::optional<LabelType> label_type_of(const Tensor& labels) {
  switch (labels.scalar_type()) {
    case ScalarType::Double:
      return LabelType::kDouble;
    case ScalarType::Float:
      return LabelType::kFloat;
    case ScalarType::BFloat16:
      return LabelType::kBFloat16;
    case ScalarType::Half:
      return LabelType::kHalf;
    case ScalarType::Long:
      return LabelType::kInt64;
    case ScalarType::Int:
      return LabelType::kInt32;
    case ScalarType::Short:
      return LabelType::kInt16;
    case ScalarType::Char:
      return LabelType::kInt8;
    case ScalarType::Byte:
    case ScalarType::Bool:
      return LabelType::kUInt8;
    default:
      return std::nullopt;
  }
}

// The objective of one call, and the scratch that both directions need.
class Objective {
 public:
  Objective(const ObjectiveArguments& arguments, void* stream)
      : arguments_(arguments),
        stream_(stream),
        labels_(readable(arguments)) {
    STD_TORCH_CHECK(arguments.columns <= kMaxLabels && arguments.rows <= kMaxRows, "at most ",
                    kMaxLabels, " labels and ", kMaxRows, " rows of logits on CUDA");
    problem_.type = type_of(arguments.logits);
    problem_.logits = arguments.logits.const_data_ptr();
    problem_.labels = labels_.const_data_ptr();
    problem_.label_type = *label_type_of(labels_);
    problem_.rows = arguments.rows;
    problem_.columns = arguments.columns;
    problem_.classification = arguments.classification;
    problem_.has_prior = arguments.has_prior();
    problem_.activation = arguments.activation();
    problem_.alpha = arguments.alpha;
    problem_.skip_rows = arguments.skip_rows;
    problem_.learned_temperature = data_or_null(arguments.learned_temperature);
  }

  Plan plan() const {
    int64_t depth = 0;
    for (const ContrastiveArguments& modality : arguments_.modalities) {
      depth = std::max(depth, modality.depth);
    }
    int limit = 0;
    check(shared_memory_limit(&limit), "objective");
    return plan_objective(problem_.type, arguments_.rows, depth, arguments_.columns,
                          static_cast<int64_t>(arguments_.modalities.size()), limit);
  }

  // Terms [3 + M].
  Tensor forward(const Tensor& stats) const;

  std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> backward(const Tensor& grad_terms,
                                                                   const Tensor& stats) const;

  // The same in one launch.
  Tensor forward_at_once(const Plan& plan, const Tensor& stats) const;

  std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> backward_at_once(
      const Plan& plan, const Tensor& grad_terms, const Tensor& stats) const;

 private:
  // In a type that the kernels read.
  static Tensor readable(const ObjectiveArguments& arguments) {
    return label_type_of(arguments.labels).has_value()
               ? arguments.labels
               : converted(arguments.labels, arguments.wide);
  }

  FusedProblem fused(const Plan& plan) const {
    FusedProblem fused{};
    fused.objective = problem_;
    fused.similarity = data_or_null(arguments_.similarity);
    fused.norm = arguments_.form == PriorForm::kNorm;
    fused.count = static_cast<int64_t>(arguments_.modalities.size());
    fused.blocks = plan.blocks;
    for (int64_t m = 0; m < fused.count; ++m) {
      const ContrastiveArguments& modality = arguments_.modalities[m];
      fused.normalize = modality.options.normalize;
      fused.modalities[m] = problem_of(modality, modality.anchors, modality.anchors);
      fused.shares[m] = arguments_.shares[m];
    }
    return fused;
  }

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
  Tensor labels_;
  ObjectiveProblem problem_{};
};

Tensor Objective::forward_at_once(const Plan& plan, const Tensor& stats) const {
  // What the blocks leave for the last one lies behind the terms, so that there is one allocation.
  const FusedProblem problem = fused(plan);
  const int64_t size = accumulate_bytes(problem_.type);
  const int64_t terms = kContrastive + problem.count;
  const int64_t before = (terms * size + 7) / 8 * 8 / size;
  const int64_t behind = (16 * (problem.count * problem.blocks + 1) + 8) / size;
  Tensor memory = scratch({before + behind});
  check(launch_fused_forward(problem, plan.shared_bytes, memory.mutable_data_ptr(),
                             stats.mutable_data_ptr(), at(memory, before), stream_),
        "objective_forward");
  return torch::stable::narrow(memory, 0, 0, terms);
}

Tensor Objective::forward(const Tensor& stats) const {
  constexpr const char* kOp = "objective_forward";
  const int64_t rows = arguments_.rows;
  Tensor terms =
      scratch({kContrastive + static_cast<int64_t>(arguments_.modalities.size())});
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
  return terms;
}

std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> Objective::backward_at_once(
    const Plan& plan, const Tensor& grad_terms, const Tensor& stats) const {
  FusedProblem problem = fused(plan);
  const bool learned = arguments_.learned_temperature.has_value();
  Tensor grad_logits = torch::stable::empty_like(arguments_.logits);
  Tensor grad_similarity =
      arguments_.has_prior()
          ? torch::stable::empty_like(*arguments_.similarity)
          : torch::stable::new_empty(arguments_.logits, {0});
  Tensor grad_temperature = learned ? scratch({}) : scratch({0});
  std::vector<Tensor> grad_embeddings;
  for (int64_t m = 0; m < problem.count; ++m) {
    grad_embeddings.push_back(torch::stable::empty_like(arguments_.modalities[m].anchors));
    problem.gradients[m] = grad_embeddings.back().mutable_data_ptr();
  }
  check(launch_fused_backward(problem, plan.shared_bytes, grad_terms.const_data_ptr(),
                              stats.const_data_ptr(), grad_logits.mutable_data_ptr(),
                              grad_similarity.mutable_data_ptr(),
                              learned ? grad_temperature.mutable_data_ptr() : nullptr, stream_),
        "objective_backward");
  return {grad_logits, grad_similarity, grad_temperature, grad_embeddings};
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
  const Tensor stats = torch::stable::new_empty(arguments.logits, {count, kStatsRows, arguments.rows},
                                          arguments.wide);
  const Objective objective(arguments, current_stream(logits.get_device_index()));
  const Plan plan = objective.plan();
  return {plan.fused ? objective.forward_at_once(plan, stats) : objective.forward(stats), stats};
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
  const Objective objective(arguments, current_stream(logits.get_device_index()));
  const Plan plan = objective.plan();
  return plan.fused ? objective.backward_at_once(plan, upstream, kept)
                    : objective.backward(upstream, kept);
}

}  // namespace univa::cuda

#include "arguments.h"

#include <torch/csrc/stable/ops.h>

#include <cmath>

namespace univa {

namespace {

using torch::headeronly::toString;

std::string shape(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    text += (d == 0 ? "" : ", ") + std::to_string(tensor.size(d));
  }
  return text + "]";
}

bool same_device(const Tensor& a, const Tensor& b) {
  return a.device().type() == b.device().type() && a.get_device_index() == b.get_device_index();
}

void check_matrix(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(tensor.dim() == 2, name, " must be a matrix, got shape ", shape(tensor));
}

void check_groups(const Tensor& groups, const Tensor& of, const char* name, const char* of_name) {
  STD_TORCH_CHECK(groups.scalar_type() == ScalarType::Long, name, " must be int64, got ",
                  toString(groups.scalar_type()));
  STD_TORCH_CHECK(groups.dim() == 1 && groups.size(0) == of.size(0), name, " must have shape [",
                  of.size(0), "], one per row of ", of_name, ", got ", shape(groups));
  STD_TORCH_CHECK(same_device(groups, of), name, " must be on the device of ", of_name);
}

void check_coordinates(const Tensor& coordinates, const Tensor& of, const char* name,
                       const char* of_name) {
  check_matrix(coordinates, name);
  STD_TORCH_CHECK(coordinates.scalar_type() == ScalarType::Float ||
                      coordinates.scalar_type() == ScalarType::Double,
                  name, " must be float32 or float64, got ", toString(coordinates.scalar_type()));
  STD_TORCH_CHECK(coordinates.size(0) == of.size(0), name, " must have one row per row of ",
                  of_name, " (", of.size(0), "), got shape ", shape(coordinates));
  STD_TORCH_CHECK(same_device(coordinates, of), name, " must be on the device of ", of_name);
}

OptionalTensor contiguous(const OptionalTensor& tensor) {
  return tensor.has_value() ? OptionalTensor(torch::stable::contiguous(*tensor)) : std::nullopt;
}

void check_floating(const Tensor& tensor, const char* name) {
  const ScalarType type = tensor.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double ||
                      type == ScalarType::BFloat16 || type == ScalarType::Half,
                  name, " must be float32, float64, bfloat16 or float16, got ", toString(type));
}

void check_options(const ContrastiveOptions& options, const Tensor& embeddings) {
  if (options.learned_temperature.has_value()) {
    const Tensor& learned = *options.learned_temperature;
    const ScalarType wide = accumulate_type(embeddings.scalar_type());
    STD_TORCH_CHECK(learned.numel() == 1, "learned_temperature must have one element, got shape ",
                    shape(learned));
    STD_TORCH_CHECK(learned.scalar_type() == wide, "learned_temperature must be ", toString(wide),
                    ", got ", toString(learned.scalar_type()));
    STD_TORCH_CHECK(same_device(learned, embeddings),
                    "learned_temperature must be on the device of the embeddings");
  } else {
    STD_TORCH_CHECK(std::isfinite(options.temperature) && options.temperature > 0,
                    "temperature must be finite and above 0, got ", options.temperature);
  }
  STD_TORCH_CHECK(options.radius >= 0, "radius must be at least 0, got ", options.radius);
  STD_TORCH_CHECK(std::isfinite(options.sigma) && options.sigma >= 0,
                  "sigma must be finite and at least 0, got ", options.sigma);
  STD_TORCH_CHECK(options.self_weight >= 0 && options.self_weight <= 1,
                  "self_weight must lie in [0, 1], got ", options.self_weight);
}

void check_contrast(const Tensor& anchors, const Tensor& contrast, const Tensor& anchor_coordinates,
                    const OptionalTensor& contrast_coordinates, const OptionalTensor& anchor_groups,
                    const OptionalTensor& contrast_groups) {
  check_matrix(contrast, "contrast");
  STD_TORCH_CHECK(contrast.scalar_type() == anchors.scalar_type(), "contrast must be ",
                  toString(anchors.scalar_type()), " like the anchors, got ",
                  toString(contrast.scalar_type()));
  STD_TORCH_CHECK(contrast.size(1) == anchors.size(1), "contrast must have ", anchors.size(1),
                  " columns like the anchors, got shape ", shape(contrast));
  STD_TORCH_CHECK(same_device(contrast, anchors), "contrast must be on the device of anchors");
  STD_TORCH_CHECK(contrast_coordinates.has_value(), "contrast needs contrast_coordinates");
  check_coordinates(*contrast_coordinates, contrast, "contrast_coordinates", "contrast");
  STD_TORCH_CHECK(
      contrast_coordinates->scalar_type() == anchor_coordinates.scalar_type() &&
          contrast_coordinates->size(1) == anchor_coordinates.size(1),
      "contrast_coordinates must have the dtype and the columns of anchor_coordinates");
  STD_TORCH_CHECK(anchor_groups.has_value() == contrast_groups.has_value(),
                  "anchor_groups and contrast_groups must be given together");
  if (contrast_groups.has_value()) {
    check_groups(*contrast_groups, contrast, "contrast_groups", "contrast");
  }
}

}  // namespace

ScalarType accumulate_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

ContrastiveArguments check_contrastive(const Tensor& anchors, const OptionalTensor& contrast,
                                       const Tensor& anchor_coordinates,
                                       const OptionalTensor& contrast_coordinates,
                                       const OptionalTensor& anchor_groups,
                                       const OptionalTensor& contrast_groups,
                                       const ContrastiveOptions& options) {
  check_matrix(anchors, "anchors");
  check_floating(anchors, "anchors");
  check_coordinates(anchor_coordinates, anchors, "anchor_coordinates", "anchors");
  if (anchor_groups.has_value()) {
    check_groups(*anchor_groups, anchors, "anchor_groups", "anchors");
  }
  check_options(options, anchors);

  const bool symmetric = !contrast.has_value();
  if (symmetric) {
    STD_TORCH_CHECK(!contrast_coordinates.has_value() && !contrast_groups.has_value(),
                    "contrast_coordinates and contrast_groups need contrast");
    STD_TORCH_CHECK(options.self_offset.value_or(0) == 0,
                    "self_offset must be 0 or None without contrast, got ",
                    options.self_offset.value_or(0));
  } else {
    check_contrast(anchors, *contrast, anchor_coordinates, contrast_coordinates, anchor_groups,
                   contrast_groups);
  }

  Tensor rows = torch::stable::contiguous(anchors);
  Tensor columns = symmetric ? rows : torch::stable::contiguous(*contrast);
  Tensor row_coordinates = torch::stable::contiguous(anchor_coordinates);
  Tensor column_coordinates =
      symmetric ? row_coordinates : torch::stable::contiguous(*contrast_coordinates);
  OptionalTensor row_groups = contiguous(anchor_groups);
  OptionalTensor column_groups = symmetric ? row_groups : contiguous(contrast_groups);
  const int64_t n = rows.size(0);
  const int64_t m = columns.size(0);
  // The anchors always hold a copy of themselves. An offset beyond both sets reaches nothing;
  // dropping it here keeps row + offset in range.
  const int64_t offset = options.self_offset.value_or(0);
  const bool has_self =
      symmetric || (options.self_offset.has_value() && offset > -n && offset < m);
  return {rows,
          columns,
          row_coordinates,
          column_coordinates,
          row_groups,
          column_groups,
          options,
          n,
          m,
          rows.size(1),
          row_coordinates.size(1),
          symmetric,
          has_self,
          has_self ? offset : 0};
}

std::tuple<Tensor, Tensor> check_contrastive_backward(const ContrastiveArguments& arguments,
                                                      const Tensor& grad_losses,
                                                      const Tensor& stats) {
  const ScalarType type = accumulate_type(arguments.anchors.scalar_type());
  STD_TORCH_CHECK(grad_losses.dim() == 1 && grad_losses.size(0) == arguments.rows,
                  "grad_losses must have shape [", arguments.rows, "], got ", shape(grad_losses));
  STD_TORCH_CHECK(stats.dim() == 2 && stats.size(0) == 4 && stats.size(1) == arguments.rows,
                  "stats must have shape [4, ", arguments.rows, "], got ", shape(stats));
  STD_TORCH_CHECK(grad_losses.scalar_type() == type && stats.scalar_type() == type,
                  "grad_losses and stats must be ", toString(type), ", got ",
                  toString(grad_losses.scalar_type()), " and ", toString(stats.scalar_type()));
  STD_TORCH_CHECK(
      same_device(grad_losses, arguments.anchors) && same_device(stats, arguments.anchors),
      "grad_losses and stats must be on the device of anchors");
  return {torch::stable::contiguous(grad_losses), torch::stable::contiguous(stats)};
}

PriorArguments check_prior(const Tensor& predictions, const Tensor& similarity,
                           const std::string& form) {
  check_matrix(predictions, "predictions");
  check_matrix(similarity, "similarity");
  check_floating(predictions, "predictions");
  const ScalarType type = predictions.scalar_type();
  STD_TORCH_CHECK(similarity.scalar_type() == type, "similarity must be ", toString(type),
                  " like the predictions, got ", toString(similarity.scalar_type()));
  const int64_t labels = predictions.size(1);
  STD_TORCH_CHECK(similarity.size(0) == labels && similarity.size(1) == labels,
                  "similarity must have shape [", labels, ", ", labels, "], got ",
                  shape(similarity));
  STD_TORCH_CHECK(same_device(predictions, similarity),
                  "similarity must be on the device of predictions");
  STD_TORCH_CHECK(form == "quadratic" || form == "norm",
                  "form must be \"quadratic\" or \"norm\", got \"", form, "\"");
  return {torch::stable::contiguous(predictions), torch::stable::contiguous(similarity),
          predictions.size(0), labels,
          form == "norm" ? PriorForm::kNorm : PriorForm::kQuadratic};
}

Tensor check_prior_backward(const PriorArguments& arguments, const Tensor& grad) {
  STD_TORCH_CHECK(grad.numel() == 1, "grad must be a scalar, got shape ", shape(grad));
  STD_TORCH_CHECK(grad.scalar_type() == arguments.predictions.scalar_type(), "grad must be ",
                  toString(arguments.predictions.scalar_type()), " like the predictions, got ",
                  toString(grad.scalar_type()));
  STD_TORCH_CHECK(same_device(grad, arguments.predictions),
                  "grad must be on the device of predictions");
  return torch::stable::contiguous(grad);
}

namespace {

// Embeddings and coordinates of modality m, named in errors as embeddings[m] and coordinates[m].
void check_modality(const Tensor& embeddings, const Tensor& coordinates, const Tensor& logits,
                    const std::string& index) {
  const std::string name = "embeddings[" + index + "]";
  const std::string coordinates_name = "coordinates[" + index + "]";
  check_matrix(embeddings, name.c_str());
  STD_TORCH_CHECK(embeddings.scalar_type() == logits.scalar_type(), name, " must be ",
                  toString(logits.scalar_type()), " like the logits, got ",
                  toString(embeddings.scalar_type()));
  STD_TORCH_CHECK(embeddings.size(0) == logits.size(0), name, " must have one row per row of logits (",
                  logits.size(0), "), got shape ", shape(embeddings));
  STD_TORCH_CHECK(same_device(embeddings, logits), name, " must be on the device of logits");
  check_coordinates(coordinates, embeddings, coordinates_name.c_str(), name.c_str());
}

// The similarity where there is a prior.
OptionalTensor check_similarity(const OptionalTensor& similarity, const Tensor& logits,
                                const std::string& prior) {
  STD_TORCH_CHECK(prior == "none" || prior == "norm" || prior == "quadratic",
                  "prior must be \"none\", \"norm\" or \"quadratic\", got \"", prior, "\"");
  if (prior == "none" || !similarity.has_value()) {
    return std::nullopt;
  }
  const int64_t labels = logits.size(1);
  check_matrix(*similarity, "similarity");
  STD_TORCH_CHECK(similarity->size(0) == labels && similarity->size(1) == labels,
                  "similarity must have shape [", labels, ", ", labels, "], got ",
                  shape(*similarity));
  STD_TORCH_CHECK(similarity->scalar_type() == logits.scalar_type(), "similarity must be ",
                  toString(logits.scalar_type()), " like the logits, got ",
                  toString(similarity->scalar_type()));
  STD_TORCH_CHECK(same_device(*similarity, logits), "similarity must be on the device of logits");
  return torch::stable::contiguous(*similarity);
}

}  // namespace

ObjectiveArguments check_objective(const Tensor& logits, const Tensor& labels,
                                   const OptionalTensor& similarity,
                                   const std::vector<Tensor>& embeddings,
                                   const std::vector<Tensor>& coordinates,
                                   const std::vector<double>& weights,
                                   const ContrastiveOptions& options, double alpha, bool skip_rows,
                                   const std::string& classification, const std::string& prior) {
  check_matrix(logits, "logits");
  check_floating(logits, "logits");
  check_matrix(labels, "labels");
  const ScalarType label_type = labels.scalar_type();
  STD_TORCH_CHECK(label_type != ScalarType::ComplexHalf && label_type != ScalarType::ComplexFloat &&
                      label_type != ScalarType::ComplexDouble,
                  "labels must be real, got ", toString(label_type));
  STD_TORCH_CHECK(labels.size(0) == logits.size(0) && labels.size(1) == logits.size(1),
                  "labels must have the shape of logits ", shape(logits), ", got ", shape(labels));
  STD_TORCH_CHECK(same_device(labels, logits), "labels must be on the device of logits");
  STD_TORCH_CHECK(classification == "kl" || classification == "bce",
                  "classification must be \"kl\" or \"bce\", got \"", classification, "\"");
  STD_TORCH_CHECK(alpha >= 0 && alpha <= 1, "alpha must lie in [0, 1], got ", alpha);
  STD_TORCH_CHECK(
      coordinates.size() == embeddings.size() && weights.size() == embeddings.size(),
      "coordinates and weights must be as many as embeddings (", embeddings.size(), "), got ",
      coordinates.size(), " and ", weights.size());
  check_options(options, logits);

  ObjectiveArguments arguments{
      torch::stable::contiguous(logits),
      torch::stable::contiguous(labels),
      check_similarity(similarity, logits, prior),
      {},
      {},
      options.learned_temperature,
      options.temperature,
      alpha,
      skip_rows,
      classification == "kl" ? Classification::kKl : Classification::kBce,
      prior == "norm" ? PriorForm::kNorm : PriorForm::kQuadratic,
      logits.size(0),
      logits.size(1),
      accumulate_type(logits.scalar_type())};
  for (size_t m = 0; m < embeddings.size(); ++m) {
    check_modality(embeddings[m], coordinates[m], logits, std::to_string(m));
    arguments.modalities.push_back(check_contrastive(embeddings[m], std::nullopt, coordinates[m],
                                                     std::nullopt, std::nullopt, std::nullopt,
                                                     options));
    arguments.shares.push_back(alpha * weights[m] / 3);
  }
  return arguments;
}

std::tuple<Tensor, Tensor> check_objective_backward(const ObjectiveArguments& arguments,
                                                    const Tensor& grad_terms,
                                                    const Tensor& stats) {
  const int64_t modalities = static_cast<int64_t>(arguments.modalities.size());
  STD_TORCH_CHECK(grad_terms.dim() == 1 && grad_terms.size(0) == kContrastive + modalities,
                  "grad_terms must have shape [", kContrastive + modalities, "], got ",
                  shape(grad_terms));
  STD_TORCH_CHECK(stats.dim() == 3 && stats.size(0) == modalities && stats.size(1) == 4 &&
                      stats.size(2) == arguments.rows,
                  "stats must have shape [", modalities, ", 4, ", arguments.rows, "], got ",
                  shape(stats));
  STD_TORCH_CHECK(
      grad_terms.scalar_type() == arguments.wide && stats.scalar_type() == arguments.wide,
      "grad_terms and stats must be ", toString(arguments.wide), ", got ",
      toString(grad_terms.scalar_type()), " and ", toString(stats.scalar_type()));
  STD_TORCH_CHECK(
      same_device(grad_terms, arguments.logits) && same_device(stats, arguments.logits),
      "grad_terms and stats must be on the device of logits");
  return {torch::stable::contiguous(grad_terms), torch::stable::contiguous(stats)};
}

}  // namespace univa

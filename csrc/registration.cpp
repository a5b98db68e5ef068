// Schemas of the ops and their implementations per device. Fake kernels and autograd: Python.

#include <torch/csrc/stable/library.h>

#include "ops.h"

STABLE_TORCH_LIBRARY(univa, library) {
  library.def(
      "contrastive_forward(Tensor anchors, Tensor? contrast, Tensor anchor_coordinates, "
      "Tensor? contrast_coordinates, Tensor? anchor_groups, Tensor? contrast_groups, "
      "Tensor? learned_temperature, float temperature, float radius, float sigma, "
      "float self_weight, int? self_offset, bool exclude_groups, bool normalize) "
      "-> (Tensor losses, Tensor stats)");
  library.def(
      "contrastive_backward(Tensor grad_losses, Tensor anchors, Tensor? contrast, "
      "Tensor anchor_coordinates, Tensor? contrast_coordinates, Tensor? anchor_groups, "
      "Tensor? contrast_groups, Tensor? learned_temperature, Tensor stats, float temperature, "
      "float radius, float sigma, float self_weight, int? self_offset, bool exclude_groups, "
      "bool normalize, bool of_anchors, bool of_contrast) "
      "-> (Tensor grad_anchors, Tensor grad_contrast)");
  library.def(
      "correlation_prior_forward(Tensor predictions, Tensor similarity, str form) -> Tensor");
  library.def(
      "correlation_prior_backward(Tensor grad, Tensor predictions, Tensor similarity, str form) "
      "-> (Tensor grad_predictions, Tensor grad_similarity)");
  library.def(
      "objective_forward(Tensor logits, Tensor labels, Tensor? similarity, Tensor[] embeddings, "
      "Tensor[] coordinates, float[] weights, Tensor? learned_temperature, float temperature, "
      "float radius, float sigma, float alpha, float self_weight, bool skip_rows, "
      "bool normalize, str classification, str prior) "
      "-> (Tensor terms, Tensor stats)");
  library.def(
      "objective_backward(Tensor grad_terms, Tensor logits, Tensor labels, Tensor? similarity, "
      "Tensor[] embeddings, Tensor[] coordinates, Tensor? learned_temperature, Tensor stats, "
      "float[] weights, float temperature, float radius, float sigma, float alpha, "
      "float self_weight, bool skip_rows, bool normalize, str classification, str prior) "
      "-> (Tensor grad_logits, Tensor grad_similarity, Tensor grad_temperature, "
      "Tensor[] grad_embeddings)");
}

STABLE_TORCH_LIBRARY_IMPL(univa, CPU, library) {
  library.impl("contrastive_forward", TORCH_BOX(&univa::cpu::contrastive_forward));
  library.impl("contrastive_backward", TORCH_BOX(&univa::cpu::contrastive_backward));
  library.impl("correlation_prior_forward", TORCH_BOX(&univa::cpu::correlation_prior_forward));
  library.impl("correlation_prior_backward", TORCH_BOX(&univa::cpu::correlation_prior_backward));
  library.impl("objective_forward", TORCH_BOX(&univa::cpu::objective_forward));
  library.impl("objective_backward", TORCH_BOX(&univa::cpu::objective_backward));
}

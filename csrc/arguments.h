// The ops' arguments, checked once and made contiguous, the same for every device.
#pragma once

#include "ops.h"
#include "univa/objective.h"

namespace univa {

using torch::headeronly::ScalarType;

// float32 for float32, bfloat16 and float16; float64 for float64.
ScalarType accumulate_type(ScalarType type);

// What is said of the contrastive loss apart from its tensors.
struct ContrastiveOptions {
  OptionalTensor learned_temperature;  // one element of the accumulate type, instead of:
  double temperature;
  double radius;
  double sigma;  // above 0: gaussian positives instead of those within the radius
  double self_weight;
  std::optional<int64_t> self_offset;
  bool exclude_groups;  // pairs of one group are no pairs, instead of positives
  bool normalize;       // rows are scaled to unit length first
};

struct ContrastiveArguments {
  Tensor anchors;               // [N, D]
  Tensor contrast;              // [M, D]; the anchors themselves where `symmetric`
  Tensor anchor_coordinates;    // [N, p]
  Tensor contrast_coordinates;  // [M, p]
  OptionalTensor anchor_groups;    // [N] int64
  OptionalTensor contrast_groups;  // [M] int64
  ContrastiveOptions options;
  int64_t rows;        // N
  int64_t columns;     // M
  int64_t depth;       // D
  int64_t dimensions;  // p
  bool symmetric;  // the contrast set is the anchors
  bool has_self;   // column i + self_offset can be the self pair of row i
  int64_t self_offset;
};

// Throws with the name of the offending argument.
ContrastiveArguments check_contrastive(const Tensor& anchors, const OptionalTensor& contrast,
                                       const Tensor& anchor_coordinates,
                                       const OptionalTensor& contrast_coordinates,
                                       const OptionalTensor& anchor_groups,
                                       const OptionalTensor& contrast_groups,
                                       const ContrastiveOptions& options);

// grad_losses [N] and stats [4, N], contiguous and in the accumulate type.
std::tuple<Tensor, Tensor> check_contrastive_backward(const ContrastiveArguments& arguments,
                                                      const Tensor& grad_losses,
                                                      const Tensor& stats);

enum class PriorForm : int { kQuadratic, kNorm };

struct PriorArguments {
  Tensor predictions;  // [N, L]
  Tensor similarity;   // [L, L]
  int64_t rows;
  int64_t labels;
  PriorForm form;
};

PriorArguments check_prior(const Tensor& predictions, const Tensor& similarity,
                           const std::string& form);

// The upstream gradient, a contiguous scalar of the predictions' type.
Tensor check_prior_backward(const PriorArguments& arguments, const Tensor& grad);

struct ObjectiveArguments {
  Tensor logits;              // [B, L]
  Tensor labels;              // [B, L] of any real type
  OptionalTensor similarity;  // [L, L], given exactly where there is a prior
  std::vector<ContrastiveArguments> modalities;
  std::vector<double> shares;  // of each modality's term in the total: alpha w_m / 3
  OptionalTensor learned_temperature;
  double temperature;
  double alpha;
  bool skip_rows;  // rows without positives are left out of a modality's mean
  Classification classification;
  PriorForm form;  // of the prior, where there is one
  int64_t rows;    // B
  int64_t columns;  // L
  ScalarType wide;  // the accumulate type

  bool has_prior() const { return similarity.has_value(); }

  Activation activation() const {
    return activation_of(form == PriorForm::kNorm, classification);
  }
};

ObjectiveArguments check_objective(const Tensor& logits, const Tensor& labels,
                                   const OptionalTensor& similarity,
                                   const std::vector<Tensor>& embeddings,
                                   const std::vector<Tensor>& coordinates,
                                   const std::vector<double>& weights,
                                   const ContrastiveOptions& options, double alpha, bool skip_rows,
                                   const std::string& classification, const std::string& prior);

// grad_terms [3 + M] and stats [M, 4, B], contiguous and in the accumulate type.
std::tuple<Tensor, Tensor> check_objective_backward(const ObjectiveArguments& arguments,
                                                    const Tensor& grad_terms, const Tensor& stats);

}  // namespace univa

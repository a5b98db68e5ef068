// What the ops (compiled by the C++ compiler, with torch) and the kernels (compiled by nvcc,
// without torch) tell each other: plain pointers and sizes.
#pragma once

#include <cstdint>

namespace univa::cuda {

enum class Type : int { kFloat, kDouble, kBFloat16, kHalf };

struct ContrastiveProblem {
  Type type;                       // of the embeddings
  const void* anchors;             // [N, D]
  const void* contrast;            // [M, D]
  bool double_coordinates;         // float64 coordinates, else float32
  const void* anchor_coordinates;    // [N, p]
  const void* contrast_coordinates;  // [M, p]
  const int64_t* anchor_groups;    // [N] or null
  const int64_t* contrast_groups;  // [M] or null
  int64_t rows;
  int64_t columns;
  int64_t depth;
  int64_t dimensions;
  double inverse_temperature;
  double squared_threshold;  // exact in the coordinates' type
  double self_weight;
  double log_self_weight;
  bool symmetric;
  bool has_self;
  int64_t self_offset;
};

struct PriorProblem {
  Type type;
  const void* predictions;  // [N, L]
  const void* similarity;   // [L, L]
  int64_t rows;
  int64_t labels;
  bool norm;
};

// Each launch runs on `stream` (a cudaStream_t) of the current device and returns null, or what
// CUDA says went wrong. Pointers to results are in the accumulate type where no type is told.

// losses [N], stats [4, N].
const char* launch_contrastive_forward(const ContrastiveProblem& problem, void* losses,
                                       void* stats, void* stream);

// grad_losses [N], stats [4, N]; grad_anchors [N, D] and grad_contrast [M, D] in the embeddings'
// type, the latter null where the problem is symmetric.
const char* launch_contrastive_backward(const ContrastiveProblem& problem, const void* grad_losses,
                                        const void* stats, void* grad_anchors, void* grad_contrast,
                                        void* stream);

// squared [L, L]: scratch; eta: one element of the predictions' type.
const char* launch_prior_forward(const PriorProblem& problem, void* squared, void* eta,
                                 void* stream);

// upstream: one element, and grad_predictions [N, L], grad_similarity [L, L], in the predictions'
// type.
const char* launch_prior_backward(const PriorProblem& problem, const void* upstream, void* squared,
                                  void* grad_predictions, void* grad_similarity, void* stream);

}  // namespace univa::cuda

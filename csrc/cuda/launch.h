// What the ops (compiled by the C++ compiler, with torch) and the kernels (compiled by nvcc,
// without torch) tell each other: plain pointers and sizes.
#pragma once

#include <cstdint>

#include "univa/objective.h"

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
  const void* learned_temperature;  // one element of the accumulate type, or null:
  double inverse_temperature;
  bool gaussian;
  double gaussian_factor;    // exact in the accumulate type
  double squared_threshold;  // exact in the coordinates' type
  bool exclude_groups;
  double self_weight;
  double log_self_weight;
  bool symmetric;
  bool has_self;
  int64_t self_offset;
  bool tensor_float32;  // float32 may be multiplied as TF32
};

// The tiles of a problem are taken in bands of columns, so that what is kept of them is linear in
// the rows. Multiples of the largest tile's side.
constexpr int64_t kTileSideLimit = 128;
constexpr int64_t kTileSideLeast = 64;
#if !defined(UNIVA_FORWARD_BAND)  // the tests have bands of their own, to see many of them
#define UNIVA_FORWARD_BAND 4096
#define UNIVA_COEFFICIENTS 16777216
#define UNIVA_GRID_LIMIT 65535
#endif
constexpr int64_t kForwardBand = UNIVA_FORWARD_BAND;

// Columns of a band of the backward: all of them where the coefficients of all pairs are few, and
// their tiles within the blocks that a grid can have along y.
constexpr int64_t kCoefficients = UNIVA_COEFFICIENTS;
constexpr int64_t kGridColumns = UNIVA_GRID_LIMIT * kTileSideLeast;
inline int64_t backward_band(int64_t rows, int64_t columns) {
  const int64_t few = kCoefficients / (rows < 1 ? 1 : rows);
  const int64_t most = few < kGridColumns ? few : kGridColumns;
  const int64_t some = most / kTileSideLimit * kTileSideLimit;
  return some >= columns ? columns : some < kTileSideLimit ? kTileSideLimit : some;
}

// Elements of the accumulate type that the forward needs as scratch.
int64_t contrastive_forward_scratch(const ContrastiveProblem& problem);

// The same for the backward: coefficients of a band, and gradients where they are not kept in place.
int64_t contrastive_backward_scratch(const ContrastiveProblem& problem, bool of_contrast);

struct PriorProblem {
  Type type;
  const void* predictions;  // [N, L]
  const void* similarity;   // [L, L]
  int64_t rows;
  int64_t labels;
  bool norm;
};

// What labels are given in.
enum class LabelType : int {
  kDouble, kFloat, kBFloat16, kHalf, kInt64, kInt32, kInt16, kInt8, kUInt8
};

struct ObjectiveProblem {
  Type type;           // of the logits
  const void* logits;  // [B, L]
  const void* labels;  // [B, L]
  LabelType label_type;
  int64_t rows;        // B
  int64_t columns;     // L
  Classification classification;
  bool has_prior;
  Activation activation;  // of what the prior sees
  double alpha;
  bool skip_rows;
  const void* learned_temperature;  // one element of the accumulate type, or null
};

// Some modalities of an objective, from `first` on, and the shares of their terms in the total.
constexpr int kModalities = 16;
struct Modalities {
  int64_t first;
  int64_t count;
  double shares[kModalities];
};

// A whole objective for one launch each way; its contrastive problems are symmetric, in the
// embeddings as they are.
constexpr int kFusedModalities = 8;
struct FusedProblem {
  ObjectiveProblem objective;
  const void* similarity;  // [L, L] of the logits' type, or null
  bool norm;
  bool normalize;
  int64_t count;   // of modalities
  int64_t blocks;  // of each modality
  ContrastiveProblem modalities[kFusedModalities];
  double shares[kFusedModalities];
  void* gradients[kFusedModalities];  // of the embeddings; backward only
};

// What stays free beside dynamic shared memory, for the arrays that kernels declare and the
// compiler's padding; tests/kernels/test_cuda_build.py holds every kernel to it.
constexpr int64_t kStaticShared = 1024;

// The largest shared memory of a block on the current device, static and dynamic together.
const char* shared_memory_limit(int* bytes);

// terms [3 + M], stats [M, 4, B]. partial: two doubles for each block of the grid (count * blocks +
// 1), and behind them four bytes for a ticket.
const char* launch_fused_forward(const FusedProblem& problem, int64_t shared_bytes, void* terms,
                                 void* stats, void* partial, void* stream);

// grad_terms [3 + M], stats [M, 4, B]; grad_logits and grad_similarity (null without a prior) in
// the logits' type, grad_temperature one element or null.
const char* launch_fused_backward(const FusedProblem& problem, int64_t shared_bytes,
                                  const void* grad_terms, const void* stats, void* grad_logits,
                                  void* grad_similarity, void* grad_temperature, void* stream);

// Each launch runs on `stream` (a cudaStream_t) of the current device and returns null, or what
// CUDA says went wrong. Pointers to results are in the accumulate type where no type is told.

// losses [N], stats [4, N]; scratch as contrastive_forward_scratch says.
const char* launch_contrastive_forward(const ContrastiveProblem& problem, void* scratch,
                                       void* losses, void* stats, void* stream);

// grad_losses [N], stats [4, N]; scratch as contrastive_backward_scratch says; grad_anchors [N, D]
// and grad_contrast [M, D] in the embeddings' type, null where they are not wanted; the latter is
// not looked at where the problem is symmetric.
const char* launch_contrastive_backward(const ContrastiveProblem& problem, const void* grad_losses,
                                        const void* stats, void* scratch, void* grad_anchors,
                                        void* grad_contrast, void* stream);

// squared [L, L]: scratch; eta: one element of the predictions' type.
const char* launch_prior_forward(const PriorProblem& problem, void* squared, void* eta,
                                 void* stream);

// upstream: one element, and grad_predictions [N, L], grad_similarity [L, L], in the predictions'
// type.
const char* launch_prior_backward(const PriorProblem& problem, const void* upstream, void* squared,
                                  void* grad_predictions, void* grad_similarity, void* stream);

// unit [N, D]: the rows [N, D] of `type`, scaled to unit length.
const char* launch_unit_rows(Type type, const void* rows, int64_t count, int64_t depth, void* unit,
                             void* stream);

// gradient [N, D] of `type`: that of the rows, from that of the scaled ones.
const char* launch_unit_rows_backward(Type type, const void* rows, const void* unit,
                                      const void* grad_unit, int64_t count, int64_t depth,
                                      void* gradient, void* stream);

// row_losses [B]: sums of the classification term; predictions [B, L]: what the prior sees, null
// without one.
const char* launch_objective_rows(const ObjectiveProblem& problem, void* row_losses,
                                  void* predictions, void* stream);

// terms [3 + M], of which terms[kPrior] is there already where there is a prior. losses [M, B],
// stats [M, 4, B]. Modalities are taken in order: what came before is in terms[kTotal].
const char* launch_objective_terms(const ObjectiveProblem& problem, const Modalities& modalities,
                                   const void* row_losses, const void* losses, const void* stats,
                                   void* terms, void* stream);

// per_row [M, B]: gradients of the contrastive losses. for_logits [2]: of the classification term
// and of the prior. grad_temperature: one element, null where none is learned; what came before is
// in it.
const char* launch_objective_upstream(const ObjectiveProblem& problem,
                                      const Modalities& modalities, const void* grad_terms,
                                      const void* stats, void* per_row, void* for_logits,
                                      void* grad_temperature, void* stream);

// grad_logits [B, L] of the logits' type; grad_predictions [B, L], null without a prior.
const char* launch_objective_logits(const ObjectiveProblem& problem, const void* for_logits,
                                    const void* grad_predictions, void* grad_logits, void* stream);

}  // namespace univa::cuda

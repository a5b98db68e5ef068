// The UniVA objective over a batch of B rows and L labels, row by row:
//
//   total = (1 - alpha) (classification + prior) + sum_m share_m contrastive_m
//   kl:   1000 / (B L) sum_ij t_ij (log t_ij - log p_ij)    t, p: softmax of labels and of logits
//   bce:  1 / (B L) sum_ij max(x, 0) - x y + log(1 + e^-|x|)
//
// The prior (prior.h) sees the logits through an activation.
#pragma once

#include <cmath>

#include "univa/macros.h"

namespace univa {

enum class Classification : int { kKl, kBce };

// What the prior sees: log_softmax for "norm"; for "quadratic" the classifier's probabilities.
enum class Activation : int { kLogSoftmax, kSoftmax, kSigmoid };

inline Activation activation_of(bool norm, Classification classification) {
  if (norm) {
    return Activation::kLogSoftmax;
  }
  return classification == Classification::kKl ? Activation::kSoftmax : Activation::kSigmoid;
}

// Places of the terms [3 + M].
enum Term : int { kTotal = 0, kClassification = 1, kPrior = 2, kContrastive = 3 };

// The factor of the classification term's sum. An empty batch has a term of 0.
template <typename T>
UNIVA_HD T classification_scale(Classification classification, long long rows, long long labels) {
  const long long elements = rows * labels;
  return (classification == Classification::kKl ? T(1000) : T(1)) /
         static_cast<T>(elements < 1 ? 1 : elements);
}

// Of the mean over a modality's rows: how many there are, or how many have positives.
template <typename T>
UNIVA_HD T mean_rows(bool skip_rows, T with_positives, long long rows) {
  const T count = skip_rows ? with_positives : static_cast<T>(rows);
  return count < T(1) ? T(1) : count;
}

template <typename T>
UNIVA_HD T sigmoid(T value) {
  const T e = std::exp(value < T(0) ? value : -value);
  return value < T(0) ? e / (T(1) + e) : T(1) / (T(1) + e);
}

// One label of one row, from its logit and the log-sum-exp of the row's logits.
template <typename T>
struct Score {
  T logit;
  T log_probability;

  static UNIVA_HD Score make(T logit, T log_sum) { return {logit, logit - log_sum}; }

  // Its part of the classification term's sum. `target`: log t for kl, y for bce.
  UNIVA_HD T loss(Classification classification, T target) const {
    if (classification == Classification::kKl) {
      const T share = std::exp(target);
      return share == T(0) ? T(0) : share * (target - log_probability);
    }
    const T positive = logit > T(0) ? logit : T(0);
    const T magnitude = logit < T(0) ? -logit : logit;
    return positive - logit * target + std::log1p(std::exp(-magnitude));
  }

  // The derivative of the row's sum with respect to the logit.
  UNIVA_HD T slope(Classification classification, T target) const {
    return classification == Classification::kKl ? std::exp(log_probability) - std::exp(target)
                                                 : sigmoid(logit) - target;
  }

  UNIVA_HD T prediction(Activation activation) const {
    switch (activation) {
      case Activation::kLogSoftmax:
        return log_probability;
      case Activation::kSoftmax:
        return std::exp(log_probability);
      default:
        return sigmoid(logit);
    }
  }

  // What of `upstream`, the gradient of the prediction, goes into the sum over the row that
  // `through` takes.
  UNIVA_HD T share(Activation activation, T upstream) const {
    switch (activation) {
      case Activation::kLogSoftmax:
        return upstream;
      case Activation::kSoftmax:
        return upstream * std::exp(log_probability);
      default:
        return T(0);
    }
  }

  // The gradient of the logit.
  UNIVA_HD T through(Activation activation, T upstream, T sum) const {
    switch (activation) {
      case Activation::kLogSoftmax:
        return upstream - std::exp(log_probability) * sum;
      case Activation::kSoftmax:
        return std::exp(log_probability) * (upstream - sum);
      default: {
        const T probability = sigmoid(logit);
        return upstream * probability * (T(1) - probability);
      }
    }
  }
};

}  // namespace univa

// One row of the contrastive loss as a reduction: a monoid with identity, push and merge.
//
// Tiles, threads, warps and ranks all keep partial RowStates and merge them, in any grouping.
#pragma once

#include <cmath>
#include <limits>

#include "univa/macros.h"

namespace univa {

template <typename T>
UNIVA_HD T negative_infinity() {
  return -std::numeric_limits<T>::infinity();
}

// Over the pairs (i, j) seen so far. z_ij is what counts in Z_i: the logit s_ij, and for the self
// pair s_ij + log w. Taking w into the exponent, in the logits' own precision and alike in forward
// and backward, keeps p_i,self right where |s| is so large that log w is lost in its rounding.
// e_j = exp(z_ij - maximum). Logits are summed relative to the maximum too: the loss is a
// difference of two sums that large logits do not drown, and exactly 0 where one pair is all.
template <typename T>
struct RowState {
  T maximum = negative_infinity<T>();  // max z_ij; never NaN, -inf while there is no pair
  T sum_e = 0;                         // sum e_j
  T sum_es = 0;                        // sum e_j (s_ij - shift)
  T sum_k = 0;                         // sum k_ij
  T sum_ks = 0;                        // sum k_ij (s_ij - shift)

  // What logits are relative to. Zero instead of -inf keeps -inf - -inf away.
  UNIVA_HD T shift() const { return maximum == negative_infinity<T>() ? T(0) : maximum; }

  // Adds one pair. A self pair of weight 0 must not be pushed: it would take part in the maximum.
  // A NaN is no maximum but makes sum_e NaN. weight: k_ij.
  UNIVA_HD void push(T logit, T z, T weight) {
    if (z > maximum) {
      const T scale = std::exp(maximum - z);  // exp(-inf) = 0 at the first pair
      sum_es = moved(sum_es, sum_e, z) * scale;
      sum_ks = moved(sum_ks, sum_k, z);
      sum_e *= scale;
      maximum = z;
    }
    const T above = logit - shift();
    const T e = std::exp(z - shift());
    sum_e += e;
    sum_es += e == T(0) ? T(0) : e * above;  // 0 * -inf is 0 here
    sum_k += weight;
    sum_ks += weight == T(0) ? T(0) : weight * above;
  }

  UNIVA_HD void merge(const RowState& other) {
    const T merged = other.maximum > maximum ? other.maximum : maximum;
    const T shift = merged == negative_infinity<T>() ? T(0) : merged;
    const T mine = std::exp(maximum - shift);
    const T theirs = std::exp(other.maximum - shift);
    sum_es = moved(sum_es, sum_e, shift) * mine +
             other.moved(other.sum_es, other.sum_e, shift) * theirs;
    sum_ks = moved(sum_ks, sum_k, shift) + other.moved(other.sum_ks, other.sum_k, shift);
    sum_e = sum_e * mine + other.sum_e * theirs;
    sum_k += other.sum_k;
    maximum = merged;
  }

  // A sum of weighted logits, relative to another shift than now. No weights, no difference: an
  // infinite one must not count.
  UNIVA_HD T moved(T sum, T weights, T to) const {
    return weights == T(0) ? sum : sum + weights * (shift() - to);
  }

  // Before anything is read: positives that weigh less than `least` in sum are none.
  UNIVA_HD void drop_vanishing_positives(T least) {
    if (sum_k < least) {
      sum_k = 0;
      sum_ks = 0;
    }
  }

  UNIVA_HD T log_z() const {
    return sum_e == T(0) ? negative_infinity<T>() : shift() + std::log(sum_e);
  }

  // (1/n) sum_j k_ij s_ij, 0 where there is no positive.
  UNIVA_HD T positive_mean() const { return sum_k == T(0) ? T(0) : shift() + sum_ks / sum_k; }

  // sum_j (p_ij - k_ij / n_i) s_ij, 0 where there is no positive. Kept instead of its two parts:
  // where logits are large their difference would be rounding. NaN if a pair with a weight is.
  UNIVA_HD T logit_gap() const {
    return sum_k == T(0) ? T(0) : sum_es / sum_e - sum_ks / sum_k;
  }

  // l_i = log Z_i - (1/n_i) sum_j k_ij s_ij, 0 where there is no positive. NaN positives (gaussian
  // ones of NaN coordinates) make it NaN.
  // A NaN logit is told of there too.
  UNIVA_HD T loss() const {
    if (sum_k == T(0)) {
      return sum_e == sum_e ? T(0) : sum_e;
    }
    return std::log(sum_e) - sum_ks / sum_k;
  }
};

// Rows of the `stats` tensor [4, N].
enum StatsRow : int { kLogZ = 0, kCount = 1, kPositiveMean = 2, kLogitGap = 3, kStatsRows = 4 };

}  // namespace univa

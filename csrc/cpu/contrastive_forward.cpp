// Forward of the contrastive loss on the CPU: tiles of logits, reduced row by row.
//
// Where the contrast set is the anchors, only tiles on and above the diagonal are multiplied, the
// same that the backward sees; transposed, they serve the rows below.

#include <cmath>
#include <memory>
#include <vector>

#include "cpu/contrastive.h"
#include "cpu/matrix.h"
#include "cpu/positives.h"
#include "cpu/rows.h"
#include "cpu/vector_exp.h"
#include "univa/reduction.h"

namespace univa::cpu {

namespace {

// The state of `count` pairs other than self pairs: z is the logit.
template <typename T>
UNIVA_INLINE RowState<T> reduce_pairs(const T* logits, const T* positive, int64_t count) {
  RowState<T> state;
  T maximum = state.maximum;
#pragma omp simd reduction(max : maximum)
  for (int64_t c = 0; c < count; ++c) {
    maximum = logits[c] > maximum ? logits[c] : maximum;
  }
  state.maximum = maximum;
  const T shift = state.shift();
  T sum_e = 0;
  T sum_es = 0;
  T sum_k = 0;
  T sum_ks = 0;
#pragma omp simd reduction(+ : sum_e, sum_es, sum_k, sum_ks)
  for (int64_t c = 0; c < count; ++c) {
    const T above = logits[c] - shift;
    const T e = vector_exp(above);
    sum_e += e;
    sum_es += e == T(0) ? T(0) : e * above;
    sum_k += positive[c];
    sum_ks += positive[c] == T(0) ? T(0) : positive[c] * above;
  }
  state.sum_e = sum_e;
  state.sum_es = sum_es;
  state.sum_k = sum_k;
  state.sum_ks = sum_ks;
  return state;
}

UNIVA_CLONES RowState<float> reduce(const float* logits, const float* positive, int64_t count) {
  return reduce_pairs(logits, positive, count);
}

RowState<double> reduce(const double* logits, const double* positive, int64_t count) {
  return reduce_pairs(logits, positive, count);
}

// Across tiles the sums go on in double: it costs nothing there.
template <typename T>
void merge(RowState<double>& total, const RowState<T>& part) {
  RowState<double> wide;
  wide.maximum = part.maximum;
  wide.sum_e = part.sum_e;
  wide.sum_es = part.sum_es;
  wide.sum_k = part.sum_k;
  wide.sum_ks = part.sum_ks;
  total.merge(wide);
}

}  // namespace

template <typename T>
void contrastive_losses(const ContrastiveArguments& arguments, T* losses, T* stats) {
  const int64_t rows = arguments.rows;
  const int64_t columns = arguments.columns;
  const int64_t depth = arguments.depth;
  const bool symmetric = arguments.symmetric;
  const ContrastiveOptions& options = arguments.options;
  const Rows<T> anchors(arguments.anchors, options.normalize);
  const Rows<T> contrast = symmetric ? anchors : Rows<T>(arguments.contrast, options.normalize);
  const T* anchor_data = anchors.data();
  const T* contrast_data = contrast.data();
  const Positives positives(arguments);
  const T scale = inverse_temperature<T>(options);
  const T self_weight = static_cast<T>(options.self_weight);
  const T log_self_weight = static_cast<T>(std::log(options.self_weight));

  std::vector<RowState<double>> states(rows);
  // Takes up the dot products of one row with `width` columns, which become logits in place.
  const auto reduce_row = [&](int64_t row, int64_t column, int64_t width, T* logits) {
    T positive[kMaxTile];
    const T factor = scale;
    for (int64_t c = 0; c < width; ++c) {
      logits[c] *= factor;
    }
    // The pairs before the self pair, the self pair with its weight, the pairs after it.
    const int64_t self =
        self_column(row, arguments.has_self, arguments.self_offset, columns) - column;
    const bool here = self >= 0 && self < width;
    const T self_logit = here ? logits[self] : T(0);
    positives.fill(row, column, width, positive, logits);
    const int64_t first = here ? self : width;
    RowState<double>& state = states[row];
    merge(state, reduce(logits, positive, first));
    if (here) {
      if (self_weight > T(0)) {
        state.push(self_logit, self_logit + log_self_weight, self_weight);
      }
      merge(state, reduce(logits + self + 1, positive + self + 1, width - self - 1));
    }
  };

  const int64_t side = tile_side<T>(depth);
  const std::unique_ptr<T[]> tile(new T[std::min(side, rows) * std::min(side, columns)]);
  for (int64_t row = 0; row < rows; row += side) {
    const int64_t height = std::min(side, rows - row);
    for (int64_t column = symmetric ? row : 0; column < columns; column += side) {
      const int64_t width = std::min(side, columns - column);
      dot_products(tile.get(), anchor_data + row * depth, height, contrast_data + column * depth,
                   width, depth);
      // The tile's columns as rows, a block of them at a time, before its own rows are reduced.
      const auto reduce_columns = [&](int64_t begin, int64_t end) {
        const std::unique_ptr<T[]> turned(new T[kBlock * height]);
        for (int64_t c = begin * kBlock; c < std::min(end * kBlock, width); c += kBlock) {
          const int64_t count = std::min(kBlock, width - c);
          transpose(turned.get(), tile.get() + c, width, height, count);
          for (int64_t i = 0; i < count; ++i) {
            reduce_row(column + c + i, row, height, turned.get() + i * height);
          }
        }
      };
      const auto reduce_rows = [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          reduce_row(row + r, column, width, tile.get() + r * width);
        }
      };
      if (symmetric && column == row) {
        mirror(tile.get(), height);
      } else if (symmetric) {
        torch::stable::parallel_for(0, (width + kBlock - 1) / kBlock, row_grain(height * kBlock),
                                    reduce_columns);
      }
      torch::stable::parallel_for(0, height, row_grain(width), reduce_rows);
    }
  }

  for (int64_t row = 0; row < rows; ++row) {
    RowState<double>& state = states[row];
    state.drop_vanishing_positives(least_count<T>());
    losses[row] = static_cast<T>(state.loss());
    stats[kLogZ * rows + row] = static_cast<T>(state.log_z());
    stats[kCount * rows + row] = static_cast<T>(state.sum_k);
    stats[kPositiveMean * rows + row] = static_cast<T>(state.positive_mean());
    stats[kLogitGap * rows + row] = static_cast<T>(state.logit_gap());
  }
}

template void contrastive_losses(const ContrastiveArguments&, float*, float*);
template void contrastive_losses(const ContrastiveArguments&, double*, double*);

std::tuple<Tensor, Tensor> contrastive_forward(
    const Tensor& anchors, const OptionalTensor& contrast, const Tensor& anchor_coordinates,
    const OptionalTensor& contrast_coordinates, const OptionalTensor& anchor_groups,
    const OptionalTensor& contrast_groups, const OptionalTensor& learned_temperature,
    double temperature, double radius, double sigma, double self_weight,
    std::optional<int64_t> self_offset, bool exclude_groups, bool normalize) {
  const ContrastiveArguments arguments =
      check_contrastive(anchors, contrast, anchor_coordinates, contrast_coordinates, anchor_groups,
                        contrast_groups,
                        {learned_temperature, temperature, radius, sigma, self_weight, self_offset,
                         exclude_groups, normalize});
  const ScalarType type = accumulate_type(anchors.scalar_type());
  Tensor losses = torch::stable::new_empty(arguments.anchors, {arguments.rows}, type);
  Tensor stats = torch::stable::new_empty(arguments.anchors, {kStatsRows, arguments.rows}, type);
  if (type == ScalarType::Double) {
    contrastive_losses(arguments, losses.mutable_data_ptr<double>(),
                       stats.mutable_data_ptr<double>());
  } else {
    contrastive_losses(arguments, losses.mutable_data_ptr<float>(),
                       stats.mutable_data_ptr<float>());
  }
  return {losses, stats};
}

}  // namespace univa::cpu

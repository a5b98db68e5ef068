// Forward of the contrastive loss on the CPU: tiles of logits, each reduced while it is in cache.
//
// Where the contrast set is the anchors, only tiles on and above the diagonal are multiplied, and of
// those on it only the pairs above: one exponential serves a pair in both of its roles.

#include <cmath>
#include <memory>
#include <vector>

#include "cpu/contrastive.h"
#include "cpu/matrix.h"
#include "cpu/positives.h"
#include "cpu/row_kernels.h"
#include "cpu/rows.h"
#include "univa/reduction.h"

namespace univa::cpu {

namespace {

// Rows that are reduced together: float32 sums of columns go no further than this.
constexpr int64_t kChunk = 32;

// What is exp of less than this below the columns' common reference is not trusted: there float32
// runs out of normal numbers. Such columns are reduced once more, each for itself.
constexpr double kLeastColumnSum = 0x1p-90;

// Across tiles and chunks sums go on in double.
template <typename T>
RowState<double> state_of(T shift, const RowSums<T>& sums) {
  RowState<double> state;
  state.maximum = shift;
  state.sum_e = sums.e;
  state.sum_es = sums.es;
  state.sum_k = sums.k;
  state.sum_ks = sums.ks;
  return state;
}

template <typename T>
class Forward : public Task {
 public:
  Forward(const ContrastiveArguments& arguments, T* losses, T* stats)
      : arguments_(arguments),
        losses_(losses),
        stats_(stats),
        symmetric_(arguments.symmetric),
        with_es_(arguments.options.learned_temperature.has_value()),
        scale_(inverse_temperature<T>(arguments.options)),
        self_weight_(static_cast<T>(arguments.options.self_weight)),
        log_self_weight_(static_cast<T>(std::log(arguments.options.self_weight))),
        anchors_(arguments.anchors, arguments.options.normalize),
        side_(tile_side(arguments.rows, arguments.columns)),
        contrast_(arguments, anchors_, arguments.rows <= side_, side_),
        positives_(arguments),
        states_(arguments.rows) {}

  void run() override {
    const int64_t rows = arguments_.rows;
    const int64_t columns = arguments_.columns;
    tile_.reset(new T[std::min(side_, rows) * std::min(side_, columns)]);
    if (symmetric_) {
      column_sums_.resize(kSums * chunks_of(side_) * side_);
      shifts_.resize(chunks_of(side_));
    }
    for (row_ = 0; row_ < rows; row_ += side_) {
      height_ = std::min(side_, rows - row_);
      for (column_ = symmetric_ ? row_ : 0; column_ < columns; column_ += side_) {
        width_ = std::min(side_, columns - column_);
        reduce_tile();
      }
    }
    for (int64_t row = 0; row < rows; ++row) {
      RowState<double>& state = states_[row];
      state.drop_vanishing_positives(least_count<T>());
      losses_[row] = static_cast<T>(state.loss());
      stats_[kLogZ * rows + row] = static_cast<T>(state.log_z());
      stats_[kCount * rows + row] = static_cast<T>(state.sum_k);
      stats_[kPositiveMean * rows + row] = static_cast<T>(state.positive_mean());
      stats_[kLogitGap * rows + row] = with_es_ ? static_cast<T>(state.logit_gap()) : T(0);
    }
  }

 private:
  static constexpr int64_t kSums = 4;  // arrays of ColumnSums

  static int64_t chunks_of(int64_t rows) { return (rows + kChunk - 1) / kChunk; }

  bool triangular() const { return symmetric_ && row_ == column_; }

  // The first pair of row r of the tile that is reduced in it.
  int64_t first(int64_t r) const { return triangular() ? r + 1 : 0; }

  void reduce_tile() {
    dot_products(tile_.get(), anchors_.data() + row_ * arguments_.depth, height_,
                 contrast_.block(column_, width_), width_, arguments_.depth);
    const int64_t grain = std::max<int64_t>(1, 16384 / (kChunk * width_));
    torch::stable::parallel_for(0, chunks_of(height_), grain, [&](int64_t begin, int64_t end) {
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        reduce_chunk(chunk);
      }
    });
    if (symmetric_) {
      torch::stable::parallel_for(0, width_, 64, [&](int64_t begin, int64_t end) {
        merge_columns(begin, end);
      });
    }
  }

  ColumnSums<T> sums_of(int64_t chunk) {
    T* sums = column_sums_.data() + chunk * kSums * side_;
    return {sums, with_es_ ? sums + side_ : nullptr, sums + 2 * side_, sums + 3 * side_};
  }

  // Takes the self pair of row r out of the tile, its weight into the row's state.
  void take_self(int64_t r, T* dots) {
    const int64_t self = self_column(row_ + r, arguments_.has_self, arguments_.self_offset,
                                     arguments_.columns) - column_;
    if (self < 0 || self >= width_) {
      return;
    }
    const T logit = dots[self] * scale_;
    dots[self] = negative_infinity<T>();
    if (self_weight_ > T(0)) {
      states_[row_ + r].push(logit, logit + log_self_weight_, self_weight_);
    }
  }

  void fill_positives(int64_t r, T* positive) const {
    positives_.fill(row_ + r, column_ + first(r), width_ - first(r), positive);
    const int64_t self = self_column(row_ + r, arguments_.has_self, arguments_.self_offset,
                                     arguments_.columns) - column_ - first(r);
    if (self >= 0 && self < width_ - first(r)) {
      positive[self] = T(0);
    }
  }

  void reduce_chunk(int64_t chunk) {
    const int64_t begin = chunk * kChunk;
    const int64_t end = std::min(begin + kChunk, height_);
    T maxima[kChunk];
    T highest = negative_infinity<T>();
    bool finite = true;
    for (int64_t r = begin; r < end; ++r) {
      T* dots = tile_.get() + r * width_;
      take_self(r, dots);
      positives_.exclude(row_ + r, column_ + first(r), width_ - first(r), dots + first(r));
      const T maximum = largest(dots + first(r), width_ - first(r)) * scale_;
      maxima[r - begin] = maximum;
      if (first(r) < width_) {
        finite = finite && maximum - maximum == T(0);
        highest = std::max(highest, maximum);
      }
    }
    T positive[kMaxTile];
    if (!symmetric_) {
      for (int64_t r = begin; r < end; ++r) {
        fill_positives(r, positive);
        reduce_row(row_ + r, tile_.get() + r * width_, positive, width_, maxima[r - begin]);
      }
      return;
    }
    const ColumnSums<T> sums = sums_of(chunk);
    std::fill(sums.e, sums.e + kSums * side_, T(0));
    // Infinite logits have no common reference: the columns are then reduced one by one.
    shifts_[chunk] = finite ? highest : std::numeric_limits<T>::quiet_NaN();
    for (int64_t r = begin; r < end; ++r) {
      const int64_t c = first(r);
      const T* dots = tile_.get() + r * width_ + c;
      const T maximum = maxima[r - begin];
      fill_positives(r, positive);
      if (!finite) {
        reduce_row(row_ + r, dots, positive, width_ - c, maximum);
      } else if (c < width_) {
        const T lift = maximum - highest;
        const ColumnSums<T> from{sums.e + c, with_es_ ? sums.es + c : nullptr, sums.k + c,
                                 sums.ks + c};
        const RowSums<T> row = sum_row_and_columns(dots, positive, width_ - c, scale_, maximum,
                                                   lift, std::exp(lift), from);
        states_[row_ + r].merge(state_of(maximum, row));
      }
    }
  }

  void reduce_row(int64_t row, const T* dots, const T* positive, int64_t count, T maximum) {
    RowState<double> state;
    state.maximum = maximum;
    const T shift = static_cast<T>(state.shift());
    const RowSums<T> sums = sum_row(dots, positive, count, scale_, shift, with_es_);
    states_[row].merge(state_of(maximum, sums));
  }

  // The tile's columns as rows below: the sums that its chunks left, put together.
  void merge_columns(int64_t begin, int64_t end) {
    const int64_t chunks = chunks_of(height_);
    double highest = negative_infinity<double>();
    bool finite = true;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      finite = finite && shifts_[chunk] == shifts_[chunk];
      highest = std::max<double>(highest, shifts_[chunk]);
    }
    double factors[kMaxTile / kChunk];
    double lifts[kMaxTile / kChunk];
    for (int64_t chunk = 0; chunk < chunks && finite; ++chunk) {
      lifts[chunk] = shifts_[chunk] - highest;
      factors[chunk] = std::exp(lifts[chunk]);
      lifts[chunk] = factors[chunk] == 0.0 && shifts_[chunk] == negative_infinity<T>()
                         ? 0.0 : lifts[chunk];
    }
    for (int64_t c = std::max<int64_t>(begin, triangular() ? 1 : 0); c < end; ++c) {
      RowState<double> state;
      for (int64_t chunk = 0; chunk < chunks && finite; ++chunk) {
        const ColumnSums<T> sums = sums_of(chunk);
        const double e = sums.e[c];
        const double k = sums.k[c];
        state.sum_e += e * factors[chunk];
        state.sum_k += k;
        state.sum_ks += sums.ks[c] + k * lifts[chunk];
        if (with_es_) {
          state.sum_es += (sums.es[c] + e * lifts[chunk]) * factors[chunk];
        }
      }
      if (state.sum_e >= kLeastColumnSum) {
        state.maximum = highest;
        states_[column_ + c].merge(state);
      } else {
        reduce_column(c);
      }
    }
  }

  // One column for itself.
  void reduce_column(int64_t c) {
    T dots[kMaxTile];
    T positive[kMaxTile];
    const int64_t count = triangular() ? c : height_;
    for (int64_t r = 0; r < count; ++r) {
      dots[r] = tile_[r * width_ + c];
    }
    positives_.fill(column_ + c, row_, count, positive);
    reduce_row(column_ + c, dots, positive, count, largest(dots, count) * scale_);
  }

  const ContrastiveArguments& arguments_;
  T* losses_;
  T* stats_;
  const bool symmetric_;
  const bool with_es_;
  const T scale_;
  const T self_weight_;
  const T log_self_weight_;
  const Rows<T> anchors_;
  const int64_t side_;
  ContrastRows<T> contrast_;
  const Positives<T> positives_;
  std::vector<RowState<double>> states_;
  std::unique_ptr<T[]> tile_;

  // The tile at hand.
  int64_t row_ = 0;
  int64_t column_ = 0;
  int64_t height_ = 0;
  int64_t width_ = 0;
  std::vector<T> column_sums_;  // [chunks, kSums, side]
  std::vector<T> shifts_;       // [chunks], what column sums are relative to
};

}  // namespace

template <typename T>
std::unique_ptr<Task> losses_task(const ContrastiveArguments& arguments, T* losses, T* stats) {
  return std::make_unique<Forward<T>>(arguments, losses, stats);
}

template std::unique_ptr<Task> losses_task(const ContrastiveArguments&, float*, float*);
template std::unique_ptr<Task> losses_task(const ContrastiveArguments&, double*, double*);

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
    losses_task(arguments, losses.mutable_data_ptr<double>(), stats.mutable_data_ptr<double>())
        ->run();
  } else {
    losses_task(arguments, losses.mutable_data_ptr<float>(), stats.mutable_data_ptr<float>())
        ->run();
  }
  return {losses, stats};
}

}  // namespace univa::cpu

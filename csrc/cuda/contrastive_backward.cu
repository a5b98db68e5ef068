// Backward of the contrastive loss, a band of columns at a time: the logits again, tile by tile,
// turned into the coefficients of two matrix products, whose tiles follow in launches of their own.
//
// Where the contrast set is the anchors, the coefficient of a pair takes both of its roles, and
// only tiles on and above the diagonal are computed: each serves its rows and its columns.

#include <algorithm>

#include "cuda/tile.cuh"

namespace univa::cuda {

namespace {

constexpr int kConvertThreads = 256;

// Columns [first, first + width) and their coefficients [N, pitch].
template <typename A>
struct Band {
  int64_t first;
  int64_t width;
  int64_t pitch;
  A* coefficients;
};

template <typename T, typename Math>
__global__ void __launch_bounds__(kTileThreads, 1)
    coefficients_kernel(const ContrastiveProblem problem, const AccumulateType<T>* upstream,
                        const AccumulateType<T>* stats, const Band<AccumulateType<T>> band) {
  using A = AccumulateType<T>;
  constexpr int kSide = Math::kSide;
  static_assert(kSide >= kTileSideLeast);  // bands are no wider than a grid of tiles along y
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kSide;
  const int64_t first_column = band.first + static_cast<int64_t>(blockIdx.y) * kSide;
  if (problem.symmetric && first_row > first_column) {
    return;  // the whole block
  }
  const Panel<T> rows{static_cast<const T*>(problem.anchors) + first_row * problem.depth,
                      problem.depth, problem.rows - first_row, problem.depth};
  const Panel<T> columns{static_cast<const T*>(problem.contrast) + first_column * problem.depth,
                         problem.depth, problem.columns - first_column, problem.depth};
  const Shared<A> dots = product<Math, Layout::kAcross, Layout::kAcross>(rows, columns, int64_t{0},
                                                                         problem.depth);
  const A inverse_temperature = inverse_temperature_of<A>(problem);
  const auto gradient_of = [&](int64_t anchor) {
    return RowGradient<A>::make(upstream[anchor], stats[kLogZ * problem.rows + anchor],
                                stats[kCount * problem.rows + anchor]);
  };
  for (int element = threadIdx.x; element < kSide * kSide; element += kTileThreads) {
    const int64_t row = first_row + element / kSide;
    const int64_t column = first_column + element % kSide;
    if (row >= problem.rows || column >= band.first + band.width) {
      continue;
    }
    const A dot = dots[element / kSide * kResultPitch<Math> + element % kSide];
    const Pair<A> pair = make_pair(problem, row, column, dot, inverse_temperature);
    A coefficient = 0;
    if (pair.counts) {
      coefficient = gradient_of(row).coefficient(pair.z, pair.positive);
      if (problem.symmetric) {
        coefficient += gradient_of(column).coefficient(pair.z, pair.positive);
      }
    }
    band.coefficients[row * band.pitch + column - band.first] = coefficient * inverse_temperature;
  }
}

// Tiles of a gradient: coefficients, taken across for the anchors and along for the contrast set,
// times the rows of the other set.
template <typename A, typename T>
struct Gradient {
  const T* others;   // [.., depth], from the band's first column on, or from the first anchor on
  A* sums;           // [rows, depth]: those of the rows that this launch adds to
  int64_t rows;
  int64_t depth;
  int64_t fresh;     // rows from here on have no sum yet
};

// Of the anchors: row i takes the columns of the band, where symmetric from its own tile on.
template <typename A, typename T, typename Math>
__global__ void __launch_bounds__(kTileThreads, 1)
    anchors_kernel(const Gradient<A, T> gradient, const Band<A> band, bool symmetric) {
  constexpr int kSide = Math::kSide;
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kSide;
  const int64_t first_depth = static_cast<int64_t>(blockIdx.y) * kSide;
  const int64_t begin = symmetric && first_row > band.first ? first_row - band.first : 0;
  const Panel<A> coefficients{band.coefficients + first_row * band.pitch, band.pitch,
                              gradient.rows - first_row, band.width};
  const Panel<T> others{gradient.others + first_depth, gradient.depth, gradient.depth - first_depth,
                        band.width};
  const Shared<A> sums = product<Math, Layout::kAcross, Layout::kAlong>(coefficients, others, begin,
                                                                        band.width);
  for (int element = threadIdx.x; element < kSide * kSide; element += kTileThreads) {
    const int64_t row = first_row + element / kSide;
    const int64_t d = first_depth + element % kSide;
    if (row < gradient.rows && d < gradient.depth) {
      A& sum = gradient.sums[row * gradient.depth + d];
      const A more = sums[element / kSide * kResultPitch<Math> + element % kSide];
      sum = row >= gradient.fresh ? more : sum + more;
    }
  }
}

// Of the columns of the band, from the anchors, where symmetric those before its own tile.
template <typename A, typename T, typename Math>
__global__ void __launch_bounds__(kTileThreads, 1)
    columns_kernel(const Gradient<A, T> gradient, const Band<A> band, bool symmetric) {
  constexpr int kSide = Math::kSide;
  const int64_t first_column = static_cast<int64_t>(blockIdx.x) * kSide;  // of the band
  const int64_t first_depth = static_cast<int64_t>(blockIdx.y) * kSide;
  const int64_t end = symmetric ? band.first + first_column : gradient.rows;
  if (end == 0 && symmetric) {
    return;  // the whole block
  }
  const Panel<A> coefficients{band.coefficients + first_column, band.pitch,
                              band.width - first_column, end};
  const Panel<T> others{gradient.others + first_depth, gradient.depth, gradient.depth - first_depth,
                        end};
  const Shared<A> sums =
      product<Math, Layout::kAlong, Layout::kAlong>(coefficients, others, int64_t{0}, end);
  for (int element = threadIdx.x; element < kSide * kSide; element += kTileThreads) {
    const int64_t column = first_column + element / kSide;
    const int64_t d = first_depth + element % kSide;
    if (column < band.width && d < gradient.depth) {
      A& sum = gradient.sums[(band.first + column) * gradient.depth + d];
      const A more = sums[element / kSide * kResultPitch<Math> + element % kSide];
      sum = symmetric ? sum + more : more;
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kConvertThreads, 1)
    convert_kernel(const AccumulateType<T>* from, int64_t count, T* to) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kConvertThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kConvertThreads + threadIdx.x; i < count;
       i += stride) {
    to[i] = narrow<T>(from[i]);
  }
}

// What multiplies coefficients by rows. Half types' rows are exact in TF32, and splitting keeps the
// coefficients' digits; with float32 both are rounded, as a matrix product in TF32 does.
template <typename T, typename Math>
using GradientMath =
    std::conditional_t<Math::kTensor, TensorCores<float, !std::is_same_v<T, float>>,
                       PlainFma<AccumulateType<T>>>;

template <typename T>
constexpr bool kInPlace = std::is_same_v<T, AccumulateType<T>>;

template <typename T>
const char* convert(const AccumulateType<T>* from, int64_t count, T* to, void* stream) {
  if (kInPlace<T> || count == 0) {
    return nullptr;
  }
  const int64_t blocks = std::min<int64_t>(blocks_for(count, kConvertThreads), 4096);
  return launch_kernel(convert_kernel<T>, static_cast<unsigned>(blocks), kConvertThreads, 0, stream,
                       from, count, to);
}

template <typename T, typename Math>
const char* launch(const ContrastiveProblem& problem, const AccumulateType<T>* upstream,
                   const AccumulateType<T>* stats, AccumulateType<T>* scratch, T* grad_anchors,
                   T* grad_contrast, void* stream) {
  using A = AccumulateType<T>;
  using Products = GradientMath<T, Math>;
  const int64_t rows = problem.rows;
  const int64_t depth = problem.depth;
  const bool symmetric = problem.symmetric;
  const bool for_anchors = grad_anchors != nullptr;
  const bool for_columns = symmetric || grad_contrast != nullptr;
  const int64_t width = backward_band(rows, problem.columns);
  A* sums = scratch + rows * ((width + 3) / 4 * 4);
  A* of_anchors = kInPlace<T> ? reinterpret_cast<A*>(grad_anchors) : sums;
  A* of_contrast = symmetric     ? of_anchors
                   : kInPlace<T> ? reinterpret_cast<A*>(grad_contrast)
                                 : sums + rows * depth;
  const T* anchors = static_cast<const T*>(problem.anchors);
  const T* contrast = static_cast<const T*>(problem.contrast);
  const auto blocks = [&](int64_t count, int64_t side) { return blocks_for(count, side); };
  for (int64_t first = 0; first == 0 || first < problem.columns; first += width) {
    const Band<A> band{first, std::min(width, problem.columns - first), (width + 3) / 4 * 4,
                       scratch};
    const int64_t reach = symmetric ? std::min(rows, first + band.width) : rows;
    if (reach > 0 && band.width > 0) {
      const dim3 grid(blocks(reach, Math::kSide), blocks(band.width, Math::kSide));
      if (const char* error =
              launch_kernel(coefficients_kernel<T, Math>, grid, kTileThreads,
                            product_bytes<Math>(Layout::kAcross, Layout::kAcross), stream, problem,
                            upstream, stats, band)) {
        return error;
      }
    }
    const unsigned slices = blocks(depth, Products::kSide);
    if (reach > 0 && for_anchors) {
      const Gradient<A, T> gradient{contrast + first * depth, of_anchors, reach, depth,
                                    symmetric || first == 0 ? first : rows};
      if (const char* error = launch_kernel(
              anchors_kernel<A, T, Products>, dim3(blocks(reach, Products::kSide), slices),
              kTileThreads, product_bytes<Products>(Layout::kAcross, Layout::kAlong), stream,
              gradient, band, symmetric)) {
        return error;
      }
    }
    if (band.width > 0 && for_columns) {
      const Gradient<A, T> gradient{anchors, of_contrast, rows, depth, 0};
      if (const char* error = launch_kernel(
              columns_kernel<A, T, Products>, dim3(blocks(band.width, Products::kSide), slices),
              kTileThreads, product_bytes<Products>(Layout::kAlong, Layout::kAlong), stream,
              gradient, band, symmetric)) {
        return error;
      }
    }
    if (band.width <= 0) {
      break;
    }
  }
  if (for_anchors) {
    if (const char* error = convert<T>(of_anchors, rows * depth, grad_anchors, stream)) {
      return error;
    }
  }
  return symmetric || !for_columns
             ? nullptr
             : convert<T>(of_contrast, problem.columns * depth, grad_contrast, stream);
}

}  // namespace

int64_t contrastive_backward_scratch(const ContrastiveProblem& problem, bool of_contrast) {
  const int64_t width = (backward_band(problem.rows, problem.columns) + 3) / 4 * 4;
  const bool in_place = problem.type == Type::kFloat || problem.type == Type::kDouble;
  const int64_t rows = problem.rows + (of_contrast ? problem.columns : 0);
  return problem.rows * width + (in_place ? 0 : rows * problem.depth);
}

const char* launch_contrastive_backward(const ContrastiveProblem& problem, const void* grad_losses,
                                        const void* stats, void* scratch, void* grad_anchors,
                                        void* grad_contrast, void* stream) {
  if (problem.depth == 0) {
    return nullptr;
  }
  return dispatch_math(problem, [&](auto* element, auto* math) {
    using T = std::remove_pointer_t<decltype(element)>;
    using A = AccumulateType<T>;
    return launch<T, std::remove_pointer_t<decltype(math)>>(
        problem, static_cast<const A*>(grad_losses), static_cast<const A*>(stats),
        static_cast<A*>(scratch), static_cast<T*>(grad_anchors), static_cast<T*>(grad_contrast),
        stream);
  });
}

}  // namespace univa::cuda

// Forward of the contrastive loss: a block per tile of logits, which it reduces to one RowState per
// row; then a thread per row merges the states of its tiles. Columns come in bands, so that the
// states kept are linear in the rows.
//
// Where the contrast set is the anchors, only tiles on and above the diagonal are computed: one
// above it serves its columns as well, as rows of the tile below.

#include <algorithm>

#include "cuda/tile.cuh"

namespace univa::cuda {

namespace {

constexpr int kMergeThreads = 128;
constexpr int kFields = 5;

// RowStates of tiles, [field, tile, row].
template <typename A>
struct States {
  A* data;
  int64_t tiles;
  int64_t rows;

  __device__ A& field(int which, int64_t tile, int64_t row) const {
    return data[(which * tiles + tile) * rows + row];
  }
  __device__ void put(int64_t tile, int64_t row, const RowState<A>& state) const {
    field(0, tile, row) = state.maximum;
    field(1, tile, row) = state.sum_e;
    field(2, tile, row) = state.sum_es;
    field(3, tile, row) = state.sum_k;
    field(4, tile, row) = state.sum_ks;
  }
  __device__ RowState<A> get(int64_t tile, int64_t row) const {
    RowState<A> state;
    state.maximum = field(0, tile, row);
    state.sum_e = field(1, tile, row);
    state.sum_es = field(2, tile, row);
    state.sum_k = field(3, tile, row);
    state.sum_ks = field(4, tile, row);
    return state;
  }
};

// One band of columns, and where its states go.
template <typename A>
struct Band {
  int64_t first;    // tile of columns
  int64_t tiles;
  States<A> right;  // [tiles of the band, N]: of the rows of each tile
  States<A> below;  // [tiles of N, columns of the band]: of its columns, where they are rows too
  States<A> kept;   // [1, N]: of the bands before
  bool last;
};

template <typename T, typename Math>
__global__ void __launch_bounds__(kTileThreads, 1)
    tiles_kernel(const ContrastiveProblem problem, const Band<AccumulateType<T>> band) {
  using A = AccumulateType<T>;
  constexpr int kSide = Math::kSide;
  constexpr int kParts = kTileThreads / kSide;  // threads that share a row
  const int64_t down = blockIdx.x;
  const int64_t beside = band.first + blockIdx.y;
  if (problem.symmetric && down > beside) {
    return;  // the whole block
  }
  const int64_t first_row = down * kSide;
  const int64_t first_column = beside * kSide;
  const Panel<T> rows{static_cast<const T*>(problem.anchors) + first_row * problem.depth,
                      problem.depth, problem.rows - first_row, problem.depth};
  const Panel<T> columns{static_cast<const T*>(problem.contrast) + first_column * problem.depth,
                         problem.depth, problem.columns - first_column, problem.depth};
  const Shared<A> dots = product<Math, Layout::kAcross, Layout::kAcross>(rows, columns, int64_t{0},
                                                                         problem.depth);
  const A inverse_temperature = inverse_temperature_of<A>(problem);
  const int own = threadIdx.x / kParts;
  const int part = threadIdx.x % kParts;

  // The row `row` of the loss against the columns from `begin` on, as the tile has them.
  const auto reduce = [&](int64_t row, int64_t begin, bool transposed) {
    RowState<A> state;
    if (row < problem.rows) {
      for (int other = part; other < kSide && begin + other < problem.columns; other += kParts) {
        const A dot = dots[transposed ? other * kResultPitch<Math> + own
                                      : own * kResultPitch<Math> + other];
        take(state, make_pair(problem, row, begin + other, dot, inverse_temperature));
      }
    }
    return merge_lanes(state, kParts);
  };
  const RowState<A> state = reduce(first_row + own, first_column, false);
  if (part == 0 && first_row + own < problem.rows) {
    band.right.put(blockIdx.y, first_row + own, state);
  }
  if (!problem.symmetric || down == beside) {
    return;
  }
  const RowState<A> turned = reduce(first_column + own, first_row, true);
  if (part == 0 && first_column + own < problem.rows) {
    band.below.put(down, first_column + own - band.first * kSide, turned);
  }
}

template <typename A>
__global__ void __launch_bounds__(kMergeThreads, 1)
    merge_kernel(const ContrastiveProblem problem, const Band<A> band, int side, A* losses,
                 A* stats) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kMergeThreads + threadIdx.x;
  if (row >= problem.rows) {
    return;
  }
  RowState<A> state;
  if (band.first > 0) {
    state = band.kept.get(0, row);
  }
  const int64_t own = row / side;
  if (problem.symmetric && own >= band.first && own < band.first + band.tiles) {
    for (int64_t tile = 0; tile < own; ++tile) {
      state.merge(band.below.get(tile, row - band.first * side));
    }
  }
  for (int64_t tile = 0; tile < band.tiles; ++tile) {
    if (!problem.symmetric || band.first + tile >= own) {
      state.merge(band.right.get(tile, row));
    }
  }
  if (!band.last) {
    band.kept.put(0, row, state);
    return;
  }
  state.drop_vanishing_positives(least_count<A>());
  losses[row] = state.loss();
  store_row(state, row, problem.rows, stats);
}

// Tiles and bands of a problem, for tiles of this side.
struct Bands {
  int64_t down;       // tiles of rows
  int64_t beside;     // tiles of columns
  int64_t tiles;      // of columns, per band
  int64_t right;      // states
  int64_t below;
  int64_t kept;

  Bands(const ContrastiveProblem& problem, int64_t side)
      : down((problem.rows + side - 1) / side),
        beside((problem.columns + side - 1) / side),
        tiles(std::min(beside, kForwardBand / side)),
        right(tiles * problem.rows),
        below(problem.symmetric ? down * tiles * side : 0),
        kept(tiles < beside ? problem.rows : 0) {}
};

template <typename T, typename Math>
const char* launch(const ContrastiveProblem& problem, AccumulateType<T>* scratch,
                   AccumulateType<T>* losses, AccumulateType<T>* stats, void* stream) {
  using A = AccumulateType<T>;
  const Bands bands(problem, Math::kSide);
  A* below = scratch + kFields * bands.right;
  A* kept = below + kFields * bands.below;
  for (int64_t first = 0; first == 0 || first < bands.beside; first += bands.tiles) {
    const int64_t tiles = std::min(bands.tiles, bands.beside - first);
    const Band<A> band{first,
                       tiles,
                       {scratch, bands.tiles, problem.rows},
                       {below, bands.down, bands.tiles * Math::kSide},
                       {kept, 1, problem.rows},
                       first + tiles >= bands.beside};
    if (tiles > 0) {
      const dim3 grid(static_cast<unsigned>(bands.down), static_cast<unsigned>(tiles));
      if (const char* error = launch_kernel(
              tiles_kernel<T, Math>, grid, kTileThreads,
              product_bytes<Math>(Layout::kAcross, Layout::kAcross), stream, problem, band)) {
        return error;
      }
    }
    if (const char* error = launch_kernel(
            merge_kernel<A>, blocks_for(problem.rows, kMergeThreads), kMergeThreads, 0, stream,
            problem, band, static_cast<int>(Math::kSide), losses, stats)) {
      return error;
    }
    if (tiles == 0) {
      break;
    }
  }
  return nullptr;
}

}  // namespace

int64_t contrastive_forward_scratch(const ContrastiveProblem& problem) {
  int64_t states = 0;
  dispatch_math(problem, [&](auto*, auto* math) {
    const Bands bands(problem, std::remove_pointer_t<decltype(math)>::kSide);
    states = bands.right + bands.below + bands.kept;
    return static_cast<const char*>(nullptr);
  });
  return kFields * states;
}

const char* launch_contrastive_forward(const ContrastiveProblem& problem, void* scratch,
                                       void* losses, void* stats, void* stream) {
  if (problem.rows == 0) {
    return nullptr;
  }
  return dispatch_math(problem, [&](auto* element, auto* math) {
    using T = std::remove_pointer_t<decltype(element)>;
    using A = AccumulateType<T>;
    return launch<T, std::remove_pointer_t<decltype(math)>>(
        problem, static_cast<A*>(scratch), static_cast<A*>(losses), static_cast<A*>(stats), stream);
  });
}

}  // namespace univa::cuda

// The product of two panels of a matrix: a square tile, by one block of kThreads threads. Steps of
// the panels come into shared memory by cp.async, the next one while this one is multiplied.
//
// Panels lie either way in memory: kAcross, the depth (what is summed over) contiguous, as the rows
// of embeddings; or kAlong, the tile's side contiguous.
#pragma once

#include <cuda_pipeline.h>
#include <mma.h>

#include "cuda/device.cuh"

namespace univa::cuda {

constexpr int kTileThreads = 256;

enum class Layout { kAcross, kAlong };

// One panel: element (s, d) of side and depth. Sides from `side` on, and depths from `depth` on,
// count as 0.
template <typename T>
struct Panel {
  const T* data;
  int64_t stride;  // elements from one row of memory to the next
  int64_t side;
  int64_t depth;
};

// How tiles are multiplied: by fused multiply-add, each thread a 4x4 part of the tile...
template <typename T>
struct PlainFma {
  using Stored = T;
  using Sum = T;
  static constexpr bool kTensor = false;
  static constexpr int kSide = 64;
  static constexpr int kStep = sizeof(T) == 8 ? 16 : 32;
  static constexpr int kPad = 16 / sizeof(T);
};

// ... or by tensor cores, each warp a 32x64 part. T: what the fragments hold. kSplit: elements of
// the first panel are the sum of two fragments, which keeps twice the digits.
template <typename T, bool split = false>
struct TensorCores {
  using Fragment = T;
  using Stored = T;
  using Sum = float;
  static constexpr bool kTensor = true;
  static constexpr bool kSplit = split;
  static constexpr int kSide = 128;
  static constexpr int kStep = 32;
  static constexpr int kFragmentDepth = 16;
  static constexpr int kPad = 8;
};
template <bool split>
struct TensorCores<float, split> : TensorCores<nvcuda::wmma::precision::tf32, split> {
  using Stored = float;
  static constexpr int kFragmentDepth = 8;
  static constexpr int kPad = 4;
};

// How the logits of a problem are computed: tensor cores for half types, and for float32 where the
// problem allows it. Calls `launch` with null pointers of the element type and of that.
template <typename Launch>
const char* dispatch_math(const ContrastiveProblem& problem, const Launch& launch) {
  switch (problem.type) {
    case Type::kDouble:
      return launch(static_cast<double*>(nullptr), static_cast<PlainFma<double>*>(nullptr));
    case Type::kBFloat16:
      return launch(static_cast<__nv_bfloat16*>(nullptr),
                    static_cast<TensorCores<__nv_bfloat16>*>(nullptr));
    case Type::kHalf:
      return launch(static_cast<__half*>(nullptr), static_cast<TensorCores<__half>*>(nullptr));
    default:
      return problem.tensor_float32 ? launch(static_cast<float*>(nullptr),
                                             static_cast<TensorCores<float>*>(nullptr))
                                    : launch(static_cast<float*>(nullptr),
                                             static_cast<PlainFma<float>*>(nullptr));
  }
}

// From one row of a panel's step in shared memory to the next, and elements of it.
template <typename Math>
constexpr int pitch(Layout layout) {
  return (layout == Layout::kAcross ? Math::kStep : Math::kSide) + Math::kPad;
}
template <typename Math>
constexpr int step_elements(Layout layout) {
  return pitch<Math>(layout) * (layout == Layout::kAcross ? Math::kSide : Math::kStep);
}

template <typename Math>
constexpr int kResultPitch = Math::kSide + 4;

// Dynamic shared memory of a product: two steps of both panels, and then the result in their place.
template <typename Math>
constexpr int64_t product_bytes(Layout first, Layout second) {
  const int64_t steps = 2 * static_cast<int64_t>(sizeof(typename Math::Stored)) *
                        (step_elements<Math>(first) + step_elements<Math>(second));
  const int64_t result = static_cast<int64_t>(sizeof(typename Math::Sum)) * Math::kSide *
                         kResultPitch<Math>;
  return steps > result ? steps : result;
}

// The dynamic shared memory that a block can have on every GPU built for.
constexpr int64_t kSharedEverywhere = 99 * 1024 - kStaticShared;
static_assert(product_bytes<TensorCores<float>>(Layout::kAcross, Layout::kAcross) <=
              kSharedEverywhere);
static_assert(product_bytes<TensorCores<__half>>(Layout::kAcross, Layout::kAcross) <=
              kSharedEverywhere);
static_assert(product_bytes<PlainFma<double>>(Layout::kAcross, Layout::kAcross) <=
              kSharedEverywhere);

// Copies kVector elements that are contiguous in both memories, `valid` of them; zeros follow.
template <int kVector, typename T, typename S>
__device__ __forceinline__ void copy_vector(const Shared<S>& to, int index, const T* from,
                                            int valid) {
  if constexpr (kVector > 1) {
    __pipeline_memcpy_async(to.range(index, kVector), from, kVector * sizeof(T),
                            (kVector - valid) * sizeof(T));
  } else {
    to[index] = valid > 0 ? static_cast<S>(widen(*from)) : static_cast<S>(0.0f);
  }
}

// Brings the depths [begin, begin + kStep) of a panel to shared memory.
template <typename Math, Layout layout, int kVector, typename T>
__device__ __forceinline__ void load_step_by(const Panel<T>& panel, int64_t begin,
                                             const Shared<typename Math::Stored>& to) {
  constexpr bool across = layout == Layout::kAcross;
  constexpr int kRows = across ? Math::kSide : Math::kStep;
  constexpr int kColumns = across ? Math::kStep : Math::kSide;
  constexpr int kPerRow = kColumns / kVector;
  const int64_t first_row = across ? 0 : begin;
  const int64_t first_column = across ? begin : 0;
  const int64_t rows = across ? panel.side : panel.depth;
  const int64_t columns = across ? panel.depth : panel.side;
  for (int v = threadIdx.x; v < kRows * kPerRow; v += kTileThreads) {
    const int row = v / kPerRow;
    const int column = v % kPerRow * kVector;
    const int64_t left = columns - (first_column + column);
    const bool inside = first_row + row < rows && left > 0;
    const int valid = !inside ? 0 : left < kVector ? static_cast<int>(left) : kVector;
    const T* from =
        inside ? panel.data + (first_row + row) * panel.stride + first_column + column : panel.data;
    copy_vector<kVector>(to, row * pitch<Math>(layout) + column, from, valid);
  }
}

// As wide copies as the panel's alignment allows, one by one where its type is another.
template <typename Math, Layout layout, typename T>
__device__ __forceinline__ void load_step(const Panel<T>& panel, int64_t begin,
                                          const Shared<typename Math::Stored>& to) {
  if constexpr (std::is_same_v<T, typename Math::Stored>) {
    const auto places =
        reinterpret_cast<uintptr_t>(panel.data) | static_cast<uintptr_t>(panel.stride * sizeof(T));
    if (places % 16 == 0) {
      load_step_by<Math, layout, 16 / sizeof(T)>(panel, begin, to);
      return;
    }
    if (sizeof(T) < 8 && places % 4 == 0) {
      load_step_by<Math, layout, (sizeof(T) < 4 ? 4 / sizeof(T) : 1)>(panel, begin, to);
      return;
    }
  }
  load_step_by<Math, layout, 1>(panel, begin, to);
}

// Sums of one thread's part of the tile, over the steps so far.
template <typename Math, Layout first, Layout second, bool tensor = Math::kTensor>
class Sums;

template <typename Math, Layout first, Layout second>
class Sums<Math, first, second, false> {
  using T = typename Math::Stored;
  static constexpr int kAside = 16;  // threads along each side

 public:
  __device__ void add(const Shared<T>& a, const Shared<T>& b) {
    for (int d = 0; d < Math::kStep; d += 4) {
      T of_a[4][4];  // [part of the side, depth]
      T of_b[4][4];
      load<first>(a, threadIdx.x / kAside, d, of_a);
      load<second>(b, threadIdx.x % kAside, d, of_b);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            sums_[i][j] += of_a[i][k] * of_b[j][k];
          }
        }
      }
    }
  }

  __device__ void store(const Shared<T>& result) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        result[place<first>(threadIdx.x / kAside, i) * kResultPitch<Math> +
               place<second>(threadIdx.x % kAside, j)] = sums_[i][j];
      }
    }
  }

 private:
  // Parts lie so that a warp's loads of four elements each fall into different banks.
  template <Layout layout>
  static __device__ __forceinline__ int place(int part, int i) {
    return layout == Layout::kAcross ? part + kAside * i : part * 4 + i;
  }

  template <Layout layout>
  static __device__ __forceinline__ void load(const Shared<T>& step, int part, int d, T (&to)[4][4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        to[i][k] = layout == Layout::kAcross
                       ? step[place<layout>(part, i) * pitch<Math>(layout) + d + k]
                       : step[(d + k) * pitch<Math>(layout) + place<layout>(part, i)];
      }
    }
  }

  T sums_[4][4] = {};
};

namespace wmma = nvcuda::wmma;

template <typename Math, Layout first, Layout second>
class Sums<Math, first, second, true> {
  using T = typename Math::Stored;
  static constexpr int kDepth = Math::kFragmentDepth;
  static constexpr int kDown = 2;    // 16x16 fragments of a warp along the first side
  static constexpr int kBeside = 4;  // and along the second
  using Kind = typename Math::Fragment;
  using RowsOf = std::conditional_t<first == Layout::kAcross, wmma::row_major, wmma::col_major>;
  using ColumnsOf = std::conditional_t<second == Layout::kAcross, wmma::col_major, wmma::row_major>;
  using First = wmma::fragment<wmma::matrix_a, 16, 16, kDepth, Kind, RowsOf>;
  using Second = wmma::fragment<wmma::matrix_b, 16, 16, kDepth, Kind, ColumnsOf>;
  using Sum = wmma::fragment<wmma::accumulator, 16, 16, kDepth, float>;

 public:
  __device__ Sums() {
#pragma unroll
    for (int i = 0; i < kDown; ++i) {
#pragma unroll
      for (int j = 0; j < kBeside; ++j) {
        wmma::fill_fragment(sums_[i][j], 0.0f);
      }
    }
  }

  __device__ void add(const Shared<T>& a, const Shared<T>& b) {
#pragma unroll
    for (int d = 0; d < Math::kStep; d += kDepth) {
      Second of_b[kBeside];
#pragma unroll
      for (int j = 0; j < kBeside; ++j) {
        fetch<second>(of_b[j], b, column() + 16 * j, d);
        to_nearest(of_b[j]);
      }
#pragma unroll
      for (int i = 0; i < kDown; ++i) {
        First of_a;
        fetch<first>(of_a, a, row() + 16 * i, d);
        First rest;
        if constexpr (Math::kSplit) {
#pragma unroll
          for (int e = 0; e < First::num_elements; ++e) {
            rest.x[e] = of_a.x[e] - wmma::__float_to_tf32(of_a.x[e]);
          }
          to_nearest(rest);
        }
        to_nearest(of_a);
#pragma unroll
        for (int j = 0; j < kBeside; ++j) {
          if constexpr (Math::kSplit) {
            wmma::mma_sync(sums_[i][j], rest, of_b[j], sums_[i][j]);
          }
          wmma::mma_sync(sums_[i][j], of_a, of_b[j], sums_[i][j]);
        }
      }
    }
  }

  __device__ void store(const Shared<float>& result) const {
#pragma unroll
    for (int i = 0; i < kDown; ++i) {
#pragma unroll
      for (int j = 0; j < kBeside; ++j) {
        constexpr int kPitch = kResultPitch<Math>;
        float* to = result.range((row() + 16 * i) * kPitch + column() + 16 * j, 15 * kPitch + 16);
        wmma::store_matrix_sync(to, sums_[i][j], kPitch, wmma::mem_row_major);
      }
    }
  }

 private:
  static __device__ int row() { return threadIdx.x / kWarp / 2 * 16 * kDown; }
  static __device__ int column() { return threadIdx.x / kWarp % 2 * 16 * kBeside; }

  template <Layout layout, typename Fragment>
  static __device__ __forceinline__ void fetch(Fragment& to, const Shared<T>& step, int side, int d) {
    constexpr int kPitch = pitch<Math>(layout);
    constexpr bool across = layout == Layout::kAcross;
    const int begin = across ? side * kPitch + d : d * kPitch + side;
    const int count = across ? 15 * kPitch + kDepth : (kDepth - 1) * kPitch + 16;
    wmma::load_matrix_sync(to, step.range(begin, count), kPitch);
  }

  template <typename Fragment>
  static __device__ __forceinline__ void to_nearest(Fragment& fragment) {
    if constexpr (std::is_same_v<T, float>) {
#pragma unroll
      for (int e = 0; e < Fragment::num_elements; ++e) {
        fragment.x[e] = wmma::__float_to_tf32(fragment.x[e]);
      }
    }
  }

  Sum sums_[kDown][kBeside];
};

// Sums over the depths [begin, end) of both panels; the tile, side of the first panel by side of
// the second, lies in the returned array with pitch kResultPitch, for every thread to read.
template <typename Math, Layout first, Layout second, typename T, typename U>
__device__ __forceinline__ Shared<typename Math::Sum> product(const Panel<T>& a, const Panel<U>& b,
                                                              int64_t begin, int64_t end) {
  using S = typename Math::Stored;
  constexpr int kFirst = step_elements<Math>(first);
  constexpr int kSecond = step_elements<Math>(second);
  SharedPieces pieces;
  const Shared<S> of_a = pieces.take<S>(2 * kFirst);
  const Shared<S> of_b = pieces.take<S>(2 * kSecond);
  Sums<Math, first, second> sums;
  const auto load = [&](int64_t from, int stage) {
    if (from < end) {
      load_step<Math, first>(a, from, of_a.part(stage * kFirst, kFirst));
      load_step<Math, second>(b, from, of_b.part(stage * kSecond, kSecond));
    }
    __pipeline_commit();
  };
  load(begin, 0);
  int stage = 0;
  for (int64_t d = begin; d < end; d += Math::kStep) {
    load(d + Math::kStep, stage ^ 1);
    __pipeline_wait_prior(1);
    __syncthreads();
    sums.add(of_a.part(stage * kFirst, kFirst), of_b.part(stage * kSecond, kSecond));
    __syncthreads();
    stage ^= 1;
  }
  __pipeline_wait_prior(0);
  const Shared<typename Math::Sum> result =
      SharedPieces().take<typename Math::Sum>(Math::kSide * kResultPitch<Math>);
  sums.store(result);
  __syncthreads();
  return result;
}

}  // namespace univa::cuda

// What the kernels of the node's convolutions and of their gradients share: which edges are live,
// copies of rows to shared memory, and operands whose rows lie along the dimension that is summed.
#pragma once

#include <cstdint>

#include "common/launch.h"
#include "common/tensor_core_cuda.h"
#include "node_convolve/node_convolve_math.h"

namespace snsoftmax {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kWarp = 32;
constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kFragment = 16;  // rows of A in a product
constexpr int kHalves = 2;     // products of a warp's pixels
static_assert(kTilePixels == kWarps * kHalves * kFragment && kWarp == kHalves * kFragment);

/// The edges of one operation.
struct Edges {
  const bool* live;
  int edges;

  /// Those that are live, as bits; all lanes of a warp must ask.
  __device__ __forceinline__ unsigned bits() const {
    const int edge = static_cast<int>(threadIdx.x) % kWarp;
    return __ballot_sync(kAllLanes, edge < edges && (live == nullptr || live[edge]));
  }
};

template <class T>
__device__ __forceinline__ const unsigned char* bytes_of(const T* values) {
  return reinterpret_cast<const unsigned char*>(values);
}

/// The block copies `rows` rows of kPieces times 16 bytes to shared memory, where they lie `pitch`
/// bytes apart. from(row, byte) points to the 16 bytes from `byte` on; null is zeros, for which the
/// device is shown `anywhere`.
template <int kPieces, class From>
__device__ __forceinline__ void copy_rows(unsigned char* to, int pitch, int rows,
                                          const void* anywhere, const From& from) {
  for (int i = static_cast<int>(threadIdx.x); i < rows * kPieces; i += kThreads) {
    const int row = i / kPieces;
    const int byte = i % kPieces * kCopyBytes;
    const void* const source = from(row, byte);
    copy_async(to + row * pitch + byte, source == nullptr ? anywhere : source, source != nullptr);
  }
}

/// Where the pixels of every tile lie, worked out once: the divisions that it takes are more work
/// than a tile's products.
struct Places {
  int window[kTilePixels];  // a pixel's first tap in the halo
  int offset[kMostHalo];

  /// All threads of the block take part; to be read behind a barrier.
  __device__ __forceinline__ void fill(const Tiles& tiles) {
    const int mine = static_cast<int>(threadIdx.x);
    window[mine] = tiles.window(mine);
    for (int i = mine; i < tiles.halo(); i += kThreads) offset[i] = tiles.offset(i);
  }
  /// The places in the map, or -1, of a pixel of the halo and of the tile.
  __device__ __forceinline__ int source(const Tiles& tiles, const Tiles::Corner& at, int i) const {
    return tiles.at_offset(at, offset[i]);
  }
  __device__ __forceinline__ int pixel(const Tiles& tiles, const Tiles::Corner& at, int i) const {
    return source(tiles, at, window[i] + tiles.halo_columns() + 1);
  }
};

/// Copies item 0, 1, ... and multiplies each once it is there. With two stages the next one is
/// copied meanwhile, to another place; with one, after. Begins with a barrier.
template <class Copy, class Multiply>
__device__ __forceinline__ void in_turn(int items, int stages, const Copy& copy,
                                        const Multiply& multiply) {
  const int ahead = stages - 1;
#pragma unroll 1
  for (int i = 0; i < items + ahead; ++i) {
    wait_for_copies();
    __syncthreads();  // the item before is there, and nothing in the place of item i is needed
    if (i < items) copy(i);
    if (ahead == 0) {
      wait_for_copies();
      __syncthreads();
    }
    if (i >= ahead) multiply(i - ahead);
  }
}

/// Loads of operands whose rows in shared memory lie along the summed dimension, so that a load
/// transposes. A step has kDepth rows; a lane gives the addresses of kRows of them, its row(i) and,
/// in that, its byte; rows are kPad bytes longer than their values. `column` and `quad` say which
/// column a sum is of: of `left` (A), and of `right` (B).
template <class T>
struct Across;

__device__ __forceinline__ int lane_of_warp() { return static_cast<int>(threadIdx.x) % kWarp; }

/// As ldmatrix transposes them.
template <>
struct Across<__nv_bfloat16> {
  static constexpr int kDepth = 16;
  static constexpr int kRows = 1;
  static constexpr int kPad = 16;
  static constexpr int kSpan = 16;  // the columns among which those of a product's A lie

  static __device__ __forceinline__ int left_row(int) {
    return lane_of_warp() / 16 * 8 + lane_of_warp() % 8;
  }
  static __device__ __forceinline__ int left_byte() { return lane_of_warp() / 8 % 2 * 16; }
  static __device__ __forceinline__ int right_row(int) { return lane_of_warp() % 16; }
  template <int N>
  static __device__ __forceinline__ int right_byte() {
    return lane_of_warp() / 16 * 16;
  }

  template <int M>
  static __device__ __forceinline__ void load_left(uint32_t (&a)[M][4],
                                                   const unsigned char* const (&rows)[kRows]) {
#pragma unroll
    for (int m = 0; m < M; ++m) load_transposed(a[m], rows[0] + m * 32);
  }
  template <int N>
  static __device__ __forceinline__ void load_right(uint32_t (&b)[N][2],
                                                    const unsigned char* const (&rows)[kRows]) {
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      uint32_t both[4];
      load_transposed(both, rows[0] + n * 16);
      b[n][0] = both[0], b[n][1] = both[1];
      b[n + 1][0] = both[2], b[n + 1][1] = both[3];
    }
  }

  /// The column of A that rows `half` (0-7, 8-15) of product m's sums are of.
  static __device__ __forceinline__ int column(int m, int half) {
    return m * 16 + half * 8 + lane_of_warp() / 4;
  }
  /// Sums of one row and four columns side by side, of which it returns the first; the lane has
  /// N / 2 of them. Neighbouring lanes exchange one half of two products' columns.
  template <int N>
  static __device__ __forceinline__ int quad(const float (&sums)[N][4], int half, int index,
                                             float (&values)[4]) {
    const int lane = lane_of_warp();
    const bool odd = lane % 2 != 0;
#pragma unroll
    for (int v = 0; v < 2; ++v) {
      const float first = sums[2 * index][2 * half + v];
      const float second = sums[2 * index + 1][2 * half + v];
      const float theirs = __shfl_xor_sync(kAllLanes, odd ? first : second, 1);
      values[v] = odd ? theirs : first;
      values[2 + v] = odd ? second : theirs;
    }
    return index * 16 + lane % 2 * 8 + lane % 4 / 2 * 4;
  }
  template <int N>
  static constexpr int kPieces = N / 2;
  /// Sums that are 16 bytes when rounded: of one row, in `half`, and of columns side by side, of
  /// which it returns the first; the lane has kPieces of them. Of two lanes with the same rows and
  /// neighbouring columns each gives one row away.
  template <int N>
  static __device__ __forceinline__ int piece(const float (&sums)[N][4], int index, int& half,
                                              float (&values)[8]) {
    float upper[4], lower[4];
    quad(sums, 0, index, upper);
    const int column = quad(sums, 1, index, lower);
    half = lane_of_warp() % 4 / 2;
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      const float theirs = __shfl_xor_sync(kAllLanes, half == 0 ? lower[v] : upper[v], 2);
      values[v] = half == 0 ? upper[v] : theirs;
      values[4 + v] = half == 0 ? theirs : lower[v];
    }
    return column - half * 4;
  }
};

/// ldmatrix does not transpose floats: a lane loads up to four columns of a row at once, which then
/// belong to as many products.
template <>
struct Across<float> {
  static constexpr int kDepth = 8;
  static constexpr int kRows = 2;
  static constexpr int kPad = 32;
  static constexpr int kSpan = 32;

  template <int W>
  struct alignas(4 * W) Words {
    uint32_t word[W];
  };
  template <int W>
  static __device__ __forceinline__ Words<W> words(const unsigned char* from) {
    return *reinterpret_cast<const Words<W>*>(from);
  }

  static __device__ __forceinline__ int left_row(int i) { return lane_of_warp() % 4 + 4 * i; }
  static __device__ __forceinline__ int left_byte() { return lane_of_warp() / 4 * 16; }
  static __device__ __forceinline__ int right_row(int i) { return left_row(i); }
  template <int N>
  static __device__ __forceinline__ int right_byte() {
    return lane_of_warp() / 4 * (N == 2 ? 8 : 16);
  }

  template <int M>
  static __device__ __forceinline__ void load_left(uint32_t (&a)[M][4],
                                                   const unsigned char* const (&rows)[kRows]) {
    static_assert(M % 2 == 0);
#pragma unroll
    for (int m = 0; m < M; m += 2) {
      const Words<4> upper = words<4>(rows[0] + m * 64), lower = words<4>(rows[1] + m * 64);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        a[m + i / 2][i % 2] = upper.word[i];
        a[m + i / 2][2 + i % 2] = lower.word[i];
      }
    }
  }
  template <int N>
  static __device__ __forceinline__ void load_right(uint32_t (&b)[N][2],
                                                    const unsigned char* const (&rows)[kRows]) {
    constexpr int kWords = N == 2 ? 2 : 4;
#pragma unroll
    for (int n = 0; n < N; n += kWords) {
      const Words<kWords> upper = words<kWords>(rows[0] + n * 32);
      const Words<kWords> lower = words<kWords>(rows[1] + n * 32);
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
        b[n + i][0] = upper.word[i];
        b[n + i][1] = lower.word[i];
      }
    }
  }

  static __device__ __forceinline__ int column(int m, int half) {
    return m / 2 * 32 + lane_of_warp() / 4 * 4 + m % 2 * 2 + half;
  }
  template <int N>
  static __device__ __forceinline__ int quad(const float (&sums)[N][4], int half, int index,
                                             float (&values)[4]) {
    const int quarter = lane_of_warp() % 4;
    if constexpr (N == 2) {
#pragma unroll
      for (int v = 0; v < 4; ++v) values[v] = sums[v % 2][2 * half + v / 2];
      return quarter * 4;
    } else {
#pragma unroll
      for (int v = 0; v < 4; ++v) values[v] = sums[index / 2 * 4 + v][2 * half + index % 2];
      return index / 2 * 32 + quarter * 8 + index % 2 * 4;
    }
  }
  template <int N>
  static constexpr int kPieces = N;
  template <int N>
  static __device__ __forceinline__ int piece(const float (&sums)[N][4], int index, int& half,
                                              float (&values)[4]) {
    half = index % 2;
    return quad(sums, half, index / 2, values);
  }
};

// ---- gradients: passes over their columns ----

template <class T, int C>
struct Columns {
  static constexpr int kWide = C == 16 ? 128 / static_cast<int>(sizeof(T)) : 32;  // of a pass
  static constexpr int kEdges = kWide > C ? kWide / C : 1;                        // of a pass
  static constexpr int kParts = C > kWide ? C / kWide : 1;  // passes of the same edge
  static constexpr int kRowBytes = kWide * static_cast<int>(sizeof(T));
  static constexpr int kPieces = kRowBytes / kCopyBytes;
};

/// One operation's gradients, [images, height, width, edges * C], and its kernels where needed.
template <class T>
struct Gradients : Edges {
  const T* grad;
  const T* weight;

  /// Part `part` of a pass's columns at the pixels source(row), zeros where that is negative.
  template <int C, class Source>
  __device__ __forceinline__ void copy(const Passes::Pass& pass, int part, unsigned char* to,
                                       int pitch, int rows, const Source& source) const {
    copy_rows<Columns<T, C>::kPieces>(to, pitch, rows, grad, [&](int row, int byte) -> const void* {
      const int column = part * Columns<T, C>::kWide + byte / static_cast<int>(sizeof(T));
      const int64_t pixel = source(row);
      if (pixel < 0 || column / C >= pass.count) return nullptr;
      return grad + pixel * edges * C + pass.channel(column, C);
    });
  }
};

// ---- host ----

inline bool aligned(const void* memory) { return reinterpret_cast<uintptr_t>(memory) % 16 == 0; }

struct Device {
  int shared_bytes;  // that a block may ask for
  int multiprocessors;
};

inline const char* read_device(Device* device) {
  int index = 0;
  cudaError_t error = cudaGetDevice(&index);
  const auto get = [&](int* value, cudaDeviceAttr attribute) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(value, attribute, index);
  };
  get(&device->shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  get(&device->multiprocessors, cudaDevAttrMultiProcessorCount);
  return message(error);
}

/// How many stages of so many bytes a block can have, beside what it has anyway: 2, 1 or 0.
inline int stages_of(size_t bytes, size_t anyway, const Device& device) {
  const size_t most = static_cast<size_t>(device.shared_bytes) - anyway;
  return most >= 2 * bytes ? 2 : static_cast<int>(most / bytes);
}

}  // namespace
}  // namespace snsoftmax

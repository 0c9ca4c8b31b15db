// Tiles of the Winograd convolutions and their transforms, for CPU vectors.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/vec.h"
#include "convolve/convolve.h"
#include "convolve/convolve_products_cpu.h"
#include "convolve/convolve_winograd_cpu.h"

namespace snsoftmax {
namespace SNSOFTMAX_CAPABILITY {

/// Pixels along a tile of maps of T, as ConvolveArgs::side() has it, and points along it and in it.
template <class T>
constexpr int kSide = std::is_same_v<T, BFloat16> ? 2 : 4;
template <class T>
constexpr int kSpan = kSide<T> + 2;
template <class T>
constexpr int kPoints = kSpan<T> * kSpan<T>;

/// Is the first half of an output's transform, A^T m, made where the products m are summed? It
/// halves what is written of them, which counts where the products themselves are cheap.
template <class T>
constexpr bool kFolded = std::is_same_v<T, BFloat16>;

/// Values from one matrix of a block of tiles to the next. Not a power of two, or the values of a
/// tile would compete for the same sets of the first-level cache.
constexpr int64_t matrix_step(int64_t tiles, int64_t width) { return tiles * width + 16; }

/// Where a tile lies: its first output pixel.
template <int kSide>
struct Tile {
  int64_t image, y, x;

  Tile(const ConvolveArgs& args, int64_t index)
      : image(index / args.across() / args.down()),
        y(index / args.across() % args.down() * kSide),
        x(index % args.across() * kSide) {}

  void next(const ConvolveArgs& args) {
    if ((x += kSide) < args.width) return;
    x = 0;
    if ((y += kSide) < args.height) return;
    y = 0;
    ++image;
  }

  /// Are the pixels around it that its outputs read all in the map?
  bool inside(const ConvolveArgs& args) const {
    return y > 0 && x > 0 && y + kSide < args.height && x + kSide < args.width;
  }
};

/// Where transformed tiles go: kPoints<T> matrices of `tiles` rows.
///
/// A row is a tile, or kPair<T> tiles whose numbers of a column lie beside each other where the
/// products sum over tiles (`kOverTiles`).
template <class T, bool kOverTiles>
struct Transformed {
  T* data;
  int64_t tiles;
  int64_t width;

  int64_t step() const { return matrix_step(tiles, width); }

  /// Row i of the registers of columns [column, column + kLanes<T>) of tile b. Of a pair the
  /// first comes first, and waits for the second as it is.
  SNSOFTMAX_INLINE void put(int64_t b, int64_t column, int i,
                            const Vector<T> (&v)[kSpan<T>]) const {
    T* const to = at(b, column, i);
#pragma GCC unroll 6
    for (int j = 0; j < kSpan<T>; ++j) {
      if constexpr (kTiles == 1) {
        store(to + j * step(), v[j]);
      } else if (b % 2 == 0) {
        std::memcpy(to + j * step(), &v[j], sizeof v[j]);
      } else {
        put_second(to + j * step(), v[j]);
      }
    }
  }

  /// After n tiles: zeros are the second of a pair that has none.
  SNSOFTMAX_INLINE void end(int64_t n, int64_t column) const {
    if (n % kTiles == 0) return;
    const Vector<T> zeros[kSpan<T>] = {};
    for (int i = 0; i < kSpan<T>; ++i) put(n, column, i, zeros);
  }

 private:
  static constexpr int64_t kTiles = kOverTiles ? kPair<T> : 1;

  T* at(int64_t b, int64_t column, int i) const {
    return data + kSpan<T> * i * step() + (b / kTiles * width + column) * kTiles;
  }
};

/// Asks memory for shares [begin, end) of `of` of what is ahead: while products are made it has
/// nothing else to do, and whoever reads or writes that next would wait for each line.
SNSOFTMAX_INLINE void ask_for(const ConvolveMemory& ahead, int64_t begin, int64_t end, int64_t of) {
  constexpr int64_t kLine = 64;  // bytes
  const int64_t lines = ahead.bytes / kLine;
  const char* const data = static_cast<const char*>(ahead.data);
  for (int64_t l = lines * begin / of; l < lines * end / of; ++l) prefetch(data + l * kLine);
}
SNSOFTMAX_INLINE void ask_for(const ConvolveAhead& ahead, int64_t begin, int64_t end, int64_t of) {
  for (int64_t i = 0; i < ahead.count; ++i) ask_for(ahead.parts[i], begin, end, of);
}

/// The i-th share of `of` of n tiles from `first`, with the rows of pixels that they begin.
template <class T, class P>
SNSOFTMAX_INLINE void ask_for(const ConvolveArgs& args, const Group<P>& group, int64_t first,
                              int64_t n, int64_t i, int64_t of) {
  const auto bytes_before = [&](int64_t tile) __attribute__((always_inline)) {
    const int64_t row = tile / args.across() / args.down() * args.height +
                        tile / args.across() % args.down() * kSide<T>;
    return row * args.width * group.channels * static_cast<int64_t>(sizeof(T));
  };
  const int64_t begin = bytes_before(first), end = bytes_before(first + n);
  each_map(group, [&](const void* map, int64_t) __attribute__((always_inline)) {
    ask_for({static_cast<const char*>(map) + begin, end - begin}, i, i + 1, of);
  });
}

/// to[point][tile][column] = B^T d B of `n` tiles from `first`.
template <class T, bool kOverTiles, class P>
void transform_inputs(const ConvolveArgs& args, const Group<P>& group, int64_t first, int64_t n,
                      const Transformed<T, kOverTiles>& to) {
  using V = Vector<T>;
  constexpr int kN = kSpan<T>;
  const int64_t channels = group.channels;
  const int64_t row = args.width * channels;
  static const T zeros[kLanes<T>] = {};
  each_map(group, [&](const void* map, int64_t column) __attribute__((always_inline)) {
    for (int64_t c = 0; c < channels; c += kLanes<T>) {
      Tile<kSide<T>> tile(args, first);
      InputTiles<V, kSide<T>> tiles;
      for (int64_t b = 0; b < n; ++b, tile.next(args)) {
        const T* const corner = static_cast<const T*>(map) +
                                (tile.image * args.height + tile.y - 1) * row +
                                (tile.x - 1) * channels + c;
        const bool beside = b > 0 && tile.x > 0;
        const auto put = [&](int i, const V(&v)[kN])
                             __attribute__((always_inline)) { to.put(b, column + c, i, v); };
        if (tile.inside(args)) {
          const auto pixel = [&](int i, int j) __attribute__((always_inline)) {
            return load(corner + i * row + j * channels);
          };
          tiles.next(beside, pixel, put);
        } else {
          const T* at[kN][kN];
          for (int i = 0; i < kN; ++i) {
            for (int j = 0; j < kN; ++j) {
              const bool in = tile.y + i >= 1 && tile.y + i <= args.height && tile.x + j >= 1 &&
                              tile.x + j <= args.width;
              at[i][j] = in ? corner + i * row + j * channels : zeros;
            }
          }
          const auto pixel = [&](int i, int j)
                                 __attribute__((always_inline)) { return load(at[i][j]); };
          tiles.next(beside, pixel, put);
        }
      }
      to.end(n, column + c);
    }
  });
}

/// to[point][tile][column] = A g A^T of `n` tiles from `first`.
template <class T, class P>
void transform_gradients(const ConvolveArgs& args, const Group<P>& group, int64_t first, int64_t n,
                         const Transformed<T, true>& to) {
  using V = Vector<T>;
  constexpr int kS = kSide<T>, kN = kSpan<T>;
  const int64_t channels = group.channels;
  const int64_t row = args.width * channels;
  each_map(group, [&](const void* map, int64_t column) __attribute__((always_inline)) {
    for (int64_t c = 0; c < channels; c += kLanes<T>) {
      Tile<kS> tile(args, first);
      for (int64_t b = 0; b < n; ++b, tile.next(args)) {
        const T* const from = static_cast<const T*>(map) +
                              (tile.image * args.height + tile.y) * row + tile.x * channels + c;
        V t[kN][kS];
#pragma GCC unroll 4
        for (int j = 0; j < kS; ++j) {
          V g[kS], points[kN];
#pragma GCC unroll 4
          for (int i = 0; i < kS; ++i) {
            const bool in = tile.y + i < args.height && tile.x + j < args.width;
            g[i] = in ? load(from + i * row + j * channels) : V{};
          }
          Winograd<V, kS>::gradient(g, points);
#pragma GCC unroll 6
          for (int i = 0; i < kN; ++i) t[i][j] = points[i];
        }
#pragma GCC unroll 6
        for (int i = 0; i < kN; ++i) {
          V z[kN];
          Winograd<V, kS>::gradient(t[i], z);
          to.put(b, column + c, i, z);
        }
      }
      to.end(n, column + c);
    }
  });
}

/// Maps of T from A^T m A, with m in from[kSpan * i + j][tile][column], or A^T m where that is
/// folded into the products; matrices are `step` apart.
template <class T, class P>
void transform_outputs(const ConvolveArgs& args, const Group<P>& group, int64_t first, int64_t n,
                       const Scalar<T>* from, int64_t step) {
  using V = Vector<T>;
  constexpr int kS = kSide<T>, kN = kSpan<T>;
  const int64_t channels = group.channels;
  const int64_t row = args.width * channels;
  Tile<kS> tile(args, first);
  for (int64_t b = 0; b < n; ++b, tile.next(args)) {
    const int64_t offset = (tile.image * args.height + tile.y) * row + tile.x * channels;
    each_map(group, [&](void* map, int64_t column) __attribute__((always_inline)) {
      T* const to = static_cast<T*>(map) + offset;
      const Scalar<T>* const at = from + b * group.width() + column;
      for (int64_t c = 0; c < channels; c += kLanes<T>) {
        V t[kS][kN];
#pragma GCC unroll 6
        for (int j = 0; j < kN; ++j) {
          if constexpr (kFolded<T>) {
            for (int i = 0; i < kS; ++i) t[i][j] = load(at + (kN * i + j) * step + c);
          } else {
            V m[kN], y[kS];
#pragma GCC unroll 6
            for (int i = 0; i < kN; ++i) m[i] = load(at + (kN * i + j) * step + c);
            Winograd<V, kS>::output(m, y);
#pragma GCC unroll 4
            for (int i = 0; i < kS; ++i) t[i][j] = y[i];
          }
        }
#pragma GCC unroll 4
        for (int i = 0; i < kS; ++i) {
          V y[kS];
          Winograd<V, kS>::output(t[i], y);
#pragma GCC unroll 4
          for (int j = 0; j < kS; ++j) {
            const bool in = tile.y + i < args.height && tile.x + j < args.width;
            if (in) store(to + i * row + j * channels + c, y[j]);
          }
        }
      }
    });
  }
}

}  // namespace SNSOFTMAX_CAPABILITY
}  // namespace snsoftmax

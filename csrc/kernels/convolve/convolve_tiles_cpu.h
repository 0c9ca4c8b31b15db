// Tiles of the Winograd convolutions and their transforms, for CPU vectors.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/vec.h"
#include "convolve/convolve.h"
#include "convolve/convolve_products_cpu.h"

namespace snsoftmax {
namespace SNSOFTMAX_CAPABILITY {

constexpr int kPoints = 16;  // values of a transformed tile

/// Is the first half of an output's transform, A^T m, made where the products m are summed? It
/// halves what is written of them, which counts where the products themselves are cheap.
template <class T>
constexpr bool kFolded = std::is_same_v<T, BFloat16>;

/// Values from one matrix of a block of tiles to the next. Not a power of two, or the values of a
/// tile would compete for the same sets of the first-level cache.
constexpr int64_t matrix_step(int64_t tiles, int64_t width) { return tiles * width + 16; }

/// `channels` channels of each of several maps, side by side.
template <class P>
struct Group {
  P const* maps;
  int64_t count;
  int64_t channels;

  int64_t width() const { return count * channels; }
};

/// Where a tile lies: its first output pixel.
struct Tile {
  int64_t image, y, x;

  Tile(const ConvolveArgs& args, int64_t index)
      : image(index / args.across() / args.down()),
        y(index / args.across() % args.down() * 2),
        x(index % args.across() * 2) {}

  void next(const ConvolveArgs& args) {
    if ((x += 2) < args.width) return;
    x = 0;
    if ((y += 2) < args.height) return;
    y = 0;
    ++image;
  }
};

/// Where transformed tiles go: kPoints matrices of `tiles` rows.
///
/// A row is a tile, or kPair<T> tiles whose numbers of a column lie beside each other where the
/// products sum over tiles (`kOverTiles`).
template <class T, bool kOverTiles>
struct Transformed {
  T* data;
  int64_t tiles;
  int64_t width;

  int64_t step() const { return matrix_step(tiles, width); }

  /// Row i of the 4x4 registers of columns [column, column + kLanes<T>) of tile b. Of a pair the
  /// first comes first, and waits for the second as it is.
  SNSOFTMAX_INLINE void put(int64_t b, int64_t column, int i, const Vector<T> (&v)[4]) const {
    T* const to = at(b, column, i);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
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
    const Vector<T> zeros[4] = {};
    for (int i = 0; i < 4; ++i) put(n, column, i, zeros);
  }

 private:
  static constexpr int64_t kTiles = kOverTiles ? kPair<T> : 1;

  T* at(int64_t b, int64_t column, int i) const {
    return data + 4 * i * step() + (b / kTiles * width + column) * kTiles;
  }
};

/// B^T d along one direction.
template <class V>
SNSOFTMAX_INLINE void transform_input(V& d0, V& d1, V& d2, V& d3) {
  const V t0 = d0 - d2;
  const V t1 = d1 + d2;
  const V t2 = d2 - d1;
  d3 = d1 - d3;
  d0 = t0;
  d1 = t1;
  d2 = t2;
}

/// Calls f(map, its first column) for each map.
template <class P, class F>
SNSOFTMAX_INLINE void each_map(const Group<P>& group, const F& f) {
  for (int64_t m = 0; m < group.count; ++m) f(group.maps[m], m * group.channels);
}

/// to[point][tile][column] = B^T d B of `n` tiles from `first`.
template <class T, bool kOverTiles, class P>
void transform_inputs(const ConvolveArgs& args, const Group<P>& group, int64_t first, int64_t n,
                      const Transformed<T, kOverTiles>& to) {
  using V = Vector<T>;
  const int64_t channels = group.channels;
  const int64_t row = args.width * channels;
  static const T zeros[kLanes<T>] = {};
  each_map(group, [&](const void* map, int64_t column) __attribute__((always_inline)) {
    for (int64_t c = 0; c < channels; c += kLanes<T>) {
      Tile tile(args, first);
      V d[4][4];  // B^T d; neighbours share two of its columns
      for (int64_t b = 0; b < n; ++b, tile.next(args)) {
        const T* const corner = static_cast<const T*>(map) +
                                (tile.image * args.height + tile.y - 1) * row +
                                (tile.x - 1) * channels + c;
        const auto take = [&](int j) __attribute__((always_inline)) {
          const bool column_inside = tile.x + j >= 1 && tile.x + j <= args.width;
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) {
            const bool in = column_inside && tile.y + i >= 1 && tile.y + i <= args.height;
            d[i][j] = load(in ? corner + i * row + j * channels : zeros);
          }
          transform_input(d[0][j], d[1][j], d[2][j], d[3][j]);
        };
        if (b > 0 && tile.x > 0) {
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) {
            d[i][0] = d[i][2];
            d[i][1] = d[i][3];
          }
        } else {
          take(0);
          take(1);
        }
        take(2);
        take(3);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          V z[4] = {d[i][0], d[i][1], d[i][2], d[i][3]};
          transform_input(z[0], z[1], z[2], z[3]);
          to.put(b, column + c, i, z);
        }
      }
      to.end(n, column + c);
    }
  });
}

/// Calls f(y, x) for the tile's pixels that the map has.
template <class F>
SNSOFTMAX_INLINE void each_pixel(const ConvolveArgs& args, const Tile& tile, const F& f) {
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      if (tile.y + i < args.height && tile.x + j < args.width) f(i, j);
    }
  }
}

/// to[point][tile][column] = A g A^T of `n` tiles from `first`.
template <class T, class P>
void transform_gradients(const ConvolveArgs& args, const Group<P>& group, int64_t first, int64_t n,
                         const Transformed<T, true>& to) {
  using V = Vector<T>;
  const int64_t channels = group.channels;
  const int64_t row = args.width * channels;
  each_map(group, [&](const void* map, int64_t column) __attribute__((always_inline)) {
    for (int64_t c = 0; c < channels; c += kLanes<T>) {
      Tile tile(args, first);
      for (int64_t b = 0; b < n; ++b, tile.next(args)) {
        const T* const from = static_cast<const T*>(map) +
                              (tile.image * args.height + tile.y) * row + tile.x * channels + c;
        V g[2][2] = {};
        each_pixel(args, tile, [&](int i, int j) __attribute__((always_inline)) {
          g[i][j] = load(from + i * row + j * channels);
        });
        V t[4][2];
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) {
          t[0][j] = g[0][j];
          t[1][j] = g[0][j] + g[1][j];
          t[2][j] = g[0][j] - g[1][j];
          t[3][j] = -g[1][j];
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const V z[4] = {t[i][0], t[i][0] + t[i][1], t[i][0] - t[i][1], -t[i][1]};
          to.put(b, column + c, i, z);
        }
      }
      to.end(n, column + c);
    }
  });
}

/// Maps of T from A^T m A, with m in from[4 * i + j][tile][column], or A^T m where that
/// is folded into the products; matrices are `step` apart.
template <class T, class P>
void transform_outputs(const ConvolveArgs& args, const Group<P>& group, int64_t first, int64_t n,
                       const Scalar<T>* from, int64_t step) {
  using V = Vector<T>;
  const int64_t channels = group.channels;
  const int64_t row = args.width * channels;
  Tile tile(args, first);
  for (int64_t b = 0; b < n; ++b, tile.next(args)) {
    const int64_t offset = (tile.image * args.height + tile.y) * row + tile.x * channels;
    each_map(group, [&](void* map, int64_t column) __attribute__((always_inline)) {
      T* const to = static_cast<T*>(map) + offset;
      const Scalar<T>* const at = from + b * group.width() + column;
      for (int64_t c = 0; c < channels; c += kLanes<T>) {
        V t[2][4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          if constexpr (kFolded<T>) {
            for (int i = 0; i < 2; ++i) t[i][j] = load(at + (4 * i + j) * step + c);
          } else {
            V m[4];
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) m[i] = load(at + (4 * i + j) * step + c);
            t[0][j] = m[0] + (m[1] + m[2]);
            t[1][j] = (m[1] - m[2]) - m[3];
          }
        }
        V y[2][2];
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
          y[i][0] = t[i][0] + (t[i][1] + t[i][2]);
          y[i][1] = (t[i][1] - t[i][2]) - t[i][3];
        }
        each_pixel(args, tile, [&](int i, int j) __attribute__((always_inline)) {
          store(to + i * row + j * channels + c, y[i][j]);
        });
      }
    });
  }
}

}  // namespace SNSOFTMAX_CAPABILITY
}  // namespace snsoftmax

// Where a block's pixels lie, which edges it computes, and moments: what the kernels of the node's
// convolutions know without touching memory.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace snsoftmax {

constexpr int kTilePixels = 128;
constexpr int kMostHalo = 8 * 6 * 6;  // of tiles_of()

SN_HOST_DEVICE int smaller(int a, int b) { return a < b ? a : b; }
SN_HOST_DEVICE int ceil_of(int a, int b) { return (a + b - 1) / b; }

/// A map cut into tiles of `deep` images, `rows` and `columns`, kTilePixels together.
struct Tiles {
  int images, height, width;  // of the map
  int deep, rows, columns;    // of a tile

  /// The first pixel of a tile.
  struct Corner {
    int image, row, column;
  };

  SN_HOST_DEVICE int down() const { return ceil_of(height, rows); }
  SN_HOST_DEVICE int across() const { return ceil_of(width, columns); }
  SN_HOST_DEVICE int count() const { return ceil_of(images, deep) * down() * across(); }
  SN_HOST_DEVICE Corner corner(int tile) const {
    const int in_image = tile % (down() * across());
    return {tile / (down() * across()) * deep, in_image / across() * rows,
            in_image % across() * columns};
  }
  /// How many pixels of a tile the map has.
  SN_HOST_DEVICE int covered(int tile) const {
    const Corner at = corner(tile);
    return smaller(deep, images - at.image) * smaller(rows, height - at.row) *
           smaller(columns, width - at.column);
  }
  /// The place in the map of a tile's pixel, or -1.
  SN_HOST_DEVICE int pixel(const Corner& at, int index) const {
    return place(at.image + index / (rows * columns), at.row + index / columns % rows,
                 at.column + index % columns);
  }

  // A tile reads its images' pixels and those around them, the halo.
  SN_HOST_DEVICE int halo_columns() const { return columns + 2; }
  SN_HOST_DEVICE int halo() const { return deep * (rows + 2) * halo_columns(); }
  /// Where the halo's pixel lies from the tile's corner on, packed: image, row and column.
  SN_HOST_DEVICE int offset(int index) const {
    const int line = index / halo_columns();
    return line / (rows + 2) << 16 | line % (rows + 2) << 8 | index % halo_columns();
  }
  /// The place in the map of the halo's pixel at an offset, or -1.
  SN_HOST_DEVICE int at_offset(const Corner& at, int offset) const {
    return place(at.image + (offset >> 16), at.row - 1 + (offset >> 8 & 255),
                 at.column - 1 + (offset & 255));
  }
  SN_HOST_DEVICE int source(const Corner& at, int index) const {
    return at_offset(at, offset(index));
  }
  /// The first tap of a tile's pixel in the halo; tap [i, j] is i halo_columns() + j further on.
  SN_HOST_DEVICE int window(int index) const {
    return (index / (rows * columns) * (rows + 2) + index / columns % rows) * halo_columns() +
           index % columns;
  }

 private:
  SN_HOST_DEVICE int place(int image, int row, int column) const {
    const bool inside = image < images && row >= 0 && row < height && column >= 0 && column < width;
    return inside ? (image * height + row) * width + column : -1;
  }
};

/// The fewest tiles, and of those the smallest halo; the sides are powers of two.
inline Tiles tiles_of(int images, int height, int width) {
  Tiles best{images, height, width, 1, 8, 16};
  for (int columns = 32; columns >= 4; columns /= 2) {
    for (int rows = smaller(32, kTilePixels / columns); rows >= 4; rows /= 2) {
      const Tiles tiles{images, height, width, kTilePixels / (rows * columns), rows, columns};
      const int more = tiles.count() - best.count();
      if (more < 0 || (more == 0 && tiles.halo() < best.halo())) best = tiles;
    }
  }
  return best;
}

/// Edges as bits, and the passes over those that are live: `units` edges of one operation each, the
/// 3x3 ones first.
struct Passes {
  unsigned three, one;
  int units;

  struct Pass {
    bool three;
    int count;       // edges
    unsigned edges;  // a byte each

    SN_HOST_DEVICE int edge(int unit) const { return static_cast<int>(edges >> 8 * unit & 255u); }
    /// The operation's channel that one of the pass's columns is, `channels` an edge.
    SN_HOST_DEVICE int channel(int column, int channels) const {
      return edge(column / channels) * channels + column % channels;
    }
  };

  static SN_HOST_DEVICE int bits_of(unsigned bits) {
#if defined(__CUDA_ARCH__)
    return __popc(bits);
#else
    return __builtin_popcount(bits);
#endif
  }
  SN_HOST_DEVICE int of_three() const { return ceil_of(bits_of(three), units); }
  SN_HOST_DEVICE int of_one() const { return ceil_of(bits_of(one), units); }
  SN_HOST_DEVICE int count() const { return of_three() + of_one(); }
  SN_HOST_DEVICE Pass at(int index) const {
    const bool is_three = index < of_three();
    return of(is_three, is_three ? index : index - of_three());
  }
  /// Pass `index` over one operation; without edges behind the last one.
  SN_HOST_DEVICE Pass of(bool is_three, int index) const {
    unsigned left = is_three ? three : one;
    for (int skip = units * index; skip > 0; --skip) left &= left - 1;
    Pass pass{is_three, 0, 0};
    for (; left != 0 && pass.count < units; left &= left - 1) {
      const auto edge = static_cast<unsigned>(bits_of((left & (0u - left)) - 1));
      pass.edges |= edge << 8 * pass.count++;
    }
    return pass;
  }
};

/// The blocks that share the products of a gradient of kernels, of which `alike` groups have the
/// same pixels to go over: block `slice` of a group takes every slices_of()-th tile. About as many
/// as such devices have multiprocessors, since each leaves sums of the size of its group's kernels.
constexpr int kSlicedBlocks = 128;
inline int slices_of(int tiles, int alike) {
  const int slices = ceil_of(kSlicedBlocks, alike);
  return smaller(slices, tiles);
}

/// A gradient behind a ReLU of `x`; where x is NaN it stays, as PyTorch has it.
template <class S>
SN_HOST_DEVICE S gated(S x, S gradient) {
  return x <= S(0) ? S(0) : gradient;
}

/// Mean and sum of squared deviations of a tile's pixels.
template <class S>
struct TileMoments {
  S mean, m2;

  /// Of `count` values, given their sums of (y - shift) and (y - shift)^2.
  static SN_HOST_DEVICE TileMoments of(int count, S shift, S sum, S squares) {
    if (count == 0) return {S(0), S(0)};
    const S mean = sum / static_cast<S>(count);
    const S m2 = squares - sum * mean;
    return {shift + mean, m2 < S(0) ? S(0) : m2};
  }
};

}  // namespace snsoftmax

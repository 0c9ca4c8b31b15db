// Maps of a node, and its edges, for the tests of its convolutions.
#pragma once

#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "map_types.h"

namespace {

struct Case {
  int64_t images = 2;
  int64_t height = 5;
  int64_t width = 7;
  int64_t channels = 16;
  int three = 3;  // edges
  int one = 3;
  unsigned dead_three = 0;  // as bits
  unsigned dead_one = 0;
  int offset = 0;  // elements from a 16-byte boundary to x

  int64_t pixels() const { return images * height * width; }
};

std::string describe(const Case& c, DType dtype) {
  char text[256];
  std::snprintf(
      text, sizeof text, "dtype %d [%lld, %lld, %lld, %lld] edges %d %d dead %x %x offset %d",
      static_cast<int>(dtype), static_cast<long long>(c.images), static_cast<long long>(c.height),
      static_cast<long long>(c.width), static_cast<long long>(c.channels), c.three, c.one,
      c.dead_three, c.dead_one, c.offset);
  return text;
}

constexpr double kUnwritten = 77.0;

template <class T>
std::vector<T> draw(int64_t n, double scale, std::mt19937& random) {
  std::normal_distribution<double> normal;
  std::vector<T> values(static_cast<size_t>(n));
  for (T& v : values) v = Traits<T>::make(scale * normal(random));
  return values;
}

}  // namespace

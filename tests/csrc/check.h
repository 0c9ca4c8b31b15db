// The whole test framework: a failed check is printed, and main returns how many there were.
#pragma once

#include <cstdio>
#include <cstdlib>

inline int failures = 0;

/// `ok`, or the formatted sentence and a failure. After twenty nothing more would be learnt.
#define CHECK(ok, ...)                                     \
  do {                                                     \
    if (!(ok)) {                                           \
      std::fprintf(stderr, "%s:%d: ", __FILE__, __LINE__); \
      std::fprintf(stderr, __VA_ARGS__);                   \
      std::fprintf(stderr, "\n");                          \
      if (++failures >= 20) std::exit(1);                  \
    }                                                      \
  } while (false)

#include "common/capability.h"

#include <cstdlib>
#include <cstring>

namespace snsoftmax {

namespace {

Capability detect() {
  Capability best = Capability::kPlain;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    best = Capability::kAVX2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      best = Capability::kAVX512;
    }
  }
#endif
  if (const char* asked = std::getenv("SNSOFTMAX_CPU_CAPABILITY")) {
    for (int c = 0; c < static_cast<int>(best); ++c) {
      if (std::strcmp(asked, capability_name(static_cast<Capability>(c))) == 0) {
        return static_cast<Capability>(c);
      }
    }
  }
  return best;
}

}  // namespace

Capability cpu_capability() {
  static const Capability capability = detect();
  return capability;
}

const char* capability_name(Capability capability) {
  switch (capability) {
    case Capability::kAVX512:
      return "avx512";
    case Capability::kAVX2:
      return "avx2";
    case Capability::kPlain:
      break;
  }
  return "plain";
}

}  // namespace snsoftmax

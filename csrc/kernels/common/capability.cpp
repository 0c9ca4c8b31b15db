#include "common/capability.h"

#include <cstdlib>
#include <cstring>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace snsoftmax {

namespace {

#if defined(__x86_64__)
/// Products of bfloat16 pairs in vectors (leaf 7.1, EAX bit 5) and no AMX ones (7.0, EDX bit 22).
bool multiplies_bfloat16_in_vectors() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool tiles = __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d >> 22 & 1) != 0;
  return !tiles && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a >> 5 & 1) != 0;
}
#endif

Capability detect() {
  Capability best = Capability::kPlain;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    best = Capability::kAVX2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      best = multiplies_bfloat16_in_vectors() ? Capability::kAVX512BF16 : Capability::kAVX512;
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
    case Capability::kAVX512BF16:
      return "avx512_bf16";
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

// Choice of the CPU instruction set at run time.
//
// Every *_cpu.cpp is compiled once per capability, with SNSOFTMAX_CAPABILITY naming it and the
// matching -m flags, and puts its kernels in the namespace of that name. The compilation for
// `plain` also defines the public functions, which dispatch.
#pragma once

namespace snsoftmax {

enum class Capability : int { kPlain, kAVX2, kAVX512, kAVX512BF16 };

/// The best capability of this processor, or the one that the environment variable
/// SNSOFTMAX_CPU_CAPABILITY (plain, avx2, avx512, avx512_bf16) asks for if the processor has it.
/// Processors with AMX stay at avx512: oneDNN's convolutions use its tiles, which are faster than
/// any vectors.
Capability cpu_capability();

const char* capability_name(Capability capability);

}  // namespace snsoftmax

#if defined(__x86_64__)
#define SNSOFTMAX_DECLARE_PER_CAPABILITY(...) \
  namespace plain {                           \
  __VA_ARGS__;                                \
  }                                           \
  namespace avx2 {                            \
  __VA_ARGS__;                                \
  }                                           \
  namespace avx512 {                          \
  __VA_ARGS__;                                \
  }                                           \
  namespace avx512_bf16 {                     \
  __VA_ARGS__;                                \
  }
#define SNSOFTMAX_DISPATCH(function, ...)        \
  switch (::snsoftmax::cpu_capability()) {       \
    case ::snsoftmax::Capability::kAVX512BF16:   \
      return avx512_bf16::function(__VA_ARGS__); \
    case ::snsoftmax::Capability::kAVX512:       \
      return avx512::function(__VA_ARGS__);      \
    case ::snsoftmax::Capability::kAVX2:         \
      return avx2::function(__VA_ARGS__);        \
    case ::snsoftmax::Capability::kPlain:        \
      break;                                     \
  }                                              \
  return plain::function(__VA_ARGS__)
#else
#define SNSOFTMAX_DECLARE_PER_CAPABILITY(...) \
  namespace plain {                           \
  __VA_ARGS__;                                \
  }
#define SNSOFTMAX_DISPATCH(function, ...) return plain::function(__VA_ARGS__)
#endif

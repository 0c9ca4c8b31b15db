// The rig's tensor cores and asynchronous copies, against the PTX ISA's own statements (chapters
// "Warp level matrix multiply-accumulate instructions" and "cp.async"), through the header that
// kernels use. With an argument a kernel that is wrong in one way, which must be noticed.
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "common/launch.h"
#include "common/tensor_core_cuda.h"

using namespace snsoftmax;

namespace {

constexpr int kWarp = 32;

/// Row and column of a fragment's element.
struct At {
  int row, column;
};

// "groupID = %laneid >> 2, threadID_in_group = %laneid % 4"
int group(int lane) { return lane >> 2; }
int in_group(int lane) { return lane % 4; }

// m16n8k16 with .bf16: a_i has row groupID for 0 <= i < 2 and 4 <= i < 6, else groupID + 8, and
// column threadID_in_group * 2 + (i & 1), and 8 more for i >= 4.
At a_bf16(int lane, int i) {
  const bool upper = i < 2 || (i >= 4 && i < 6);
  return {group(lane) + (upper ? 0 : 8), in_group(lane) * 2 + (i & 1) + (i >= 4 ? 8 : 0)};
}
// b_i: row threadID_in_group * 2 + (i & 1), and 8 more for i >= 2; column groupID.
At b_bf16(int lane, int i) {
  return {in_group(lane) * 2 + (i & 1) + (i >= 2 ? 8 : 0), group(lane)};
}
// m16n8k8 with .tf32: a_i has row groupID for a0 and a2, groupID + 8 for a1 and a3; column
// threadID_in_group for a0 and a1, 4 more for a2 and a3.
At a_tf32(int lane, int i) {
  return {group(lane) + (i % 2 == 0 ? 0 : 8), in_group(lane) + (i < 2 ? 0 : 4)};
}
// b_i: row threadID_in_group, and 4 more for b1; column groupID.
At b_tf32(int lane, int i) { return {in_group(lane) + 4 * i, group(lane)}; }
// c_i, d_i: row groupID for i < 2, else groupID + 8; column threadID_in_group * 2 + (i & 1).
At d_of(int lane, int i) { return {group(lane) + (i < 2 ? 0 : 8), in_group(lane) * 2 + (i & 1)}; }

/// What lane l holds in each register.
struct Fragments {
  uint32_t a[kWarp][4], b[kWarp][2];
  float d[kWarp][4];
};

template <class T>
void multiply_kernel(Fragments* fragments) {
  const unsigned lane = threadIdx.x % kWarp;
  TensorCore<T>::multiply(fragments->d[lane], fragments->a[lane], fragments->b[lane]);
}

/// A [16, K] and B [K, 8] from a generator, put into fragments by the manual, and the product.
template <class T, int K>
void check_product(std::mt19937& random) {
  constexpr bool kNarrow = sizeof(T) == 2;
  std::normal_distribution<float> normal;
  double a[16][K], b[K][8], d[16][8];
  const auto draw = [&](double& value) -> uint32_t {
    uint32_t word;
    const float x = normal(random);
    std::memcpy(&word, &x, sizeof word);
    word &= kNarrow ? 0xffff0000u : ~0x1fffu;
    float rounded;
    std::memcpy(&rounded, &word, sizeof rounded);
    value = rounded;
    return kNarrow ? word >> 16 : word;
  };
  uint32_t a_bits[16][K], b_bits[K][8];
  for (int k = 0; k < K; ++k) {
    for (int i = 0; i < 16; ++i) a_bits[i][k] = draw(a[i][k]);
    for (int i = 0; i < 8; ++i) b_bits[k][i] = draw(b[k][i]);
  }
  Fragments fragments{};
  for (int lane = 0; lane < kWarp; ++lane) {
    for (int i = 0; i < (kNarrow ? 8 : 4); ++i) {
      const At at = kNarrow ? a_bf16(lane, i) : a_tf32(lane, i);
      const int shift = kNarrow ? 16 * (i % 2) : 0;
      fragments.a[lane][kNarrow ? i / 2 : i] |= a_bits[at.row][at.column] << shift;
    }
    for (int i = 0; i < (kNarrow ? 4 : 2); ++i) {
      const At at = kNarrow ? b_bf16(lane, i) : b_tf32(lane, i);
      const int shift = kNarrow ? 16 * (i % 2) : 0;
      fragments.b[lane][kNarrow ? i / 2 : i] |= b_bits[at.row][at.column] << shift;
    }
    for (int i = 0; i < 4; ++i) {
      fragments.d[lane][i] = normal(random);
      d[d_of(lane, i).row][d_of(lane, i).column] = fragments.d[lane][i];
    }
  }
  launch(multiply_kernel<T>, dim3(1), dim3(kWarp), 0, nullptr, &fragments);
  for (int lane = 0; lane < kWarp; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const At at = d_of(lane, i);
      double want = d[at.row][at.column];
      for (int k = 0; k < K; ++k) want += a[at.row][k] * b[k][at.column];
      CHECK(std::fabs(fragments.d[lane][i] - want) <= 0x1p-23 * std::fabs(want) + 1e-12,
            "%zu bytes: D[%d][%d] = %.9g, not %.9g", sizeof(T), at.row, at.column,
            static_cast<double>(fragments.d[lane][i]), want);
    }
  }
}

constexpr int kMatrixBytes = 8 * 16;

/// registers[lane][j] of 4 matrices that lie one behind the other.
void load_kernel(const unsigned char* matrices, uint32_t* registers, bool transposed) {
  auto* const shared = dynamic_shared<unsigned char>();
  const unsigned lane = threadIdx.x;
  copy_async(shared + lane * 16, matrices + lane * 16, true);
  wait_for_copies();
  __syncwarp();
  uint32_t own[4];
  const unsigned char* const row = shared + lane / 8 * kMatrixBytes + lane % 8 * 16;
  if (transposed) {
    load_transposed(own, row);
  } else {
    load_matrices(own, row);
  }
  std::memcpy(registers + lane * 4, own, sizeof own);
}

/// "each thread receives row groupID, elements 2 threadID_in_group and the next"; .trans: "the
/// matrix is loaded in column-major format".
void check_loads() {
  alignas(16) uint16_t matrices[4][8][8];
  uint16_t next = 0;
  for (auto& matrix : matrices)
    for (auto& row : matrix)
      for (auto& element : row) element = next++;
  for (const bool transposed : {false, true}) {
    uint16_t found[kWarp][4][2];
    launch(load_kernel, dim3(1), dim3(kWarp), 4 * kMatrixBytes, nullptr,
           reinterpret_cast<const unsigned char*>(matrices), reinterpret_cast<uint32_t*>(found),
           transposed);
    for (int lane = 0; lane < kWarp; ++lane) {
      for (int j = 0; j < 4; ++j) {
        for (int i = 0; i < 2; ++i) {
          const int major = group(lane), minor = 2 * in_group(lane) + i;
          const int want = transposed ? matrices[j][minor][major] : matrices[j][major][minor];
          CHECK(found[lane][j][i] == want, "transposed %d: lane %d has %d of matrix %d, not %d",
                transposed, lane, found[lane][j][i], j, want);
        }
      }
    }
  }
}

/// Each thread copies 16 bytes and reads its neighbour's, before and after they must be there.
void copy_kernel(const uint4* from, unsigned* early, unsigned* late, bool last_is_there) {
  auto* const shared = dynamic_shared<uint4>();
  const unsigned me = threadIdx.x;
  const unsigned other = (me + 1) % blockDim.x;
  shared[me] = {me, me, me, me};
  copy_async(shared + me, from + me, last_is_there || me + 1 < blockDim.x);
  __syncthreads();
  early[me] = shared[other].x;
  __syncthreads();
  wait_for_copies();
  __syncthreads();
  late[me] = shared[other].w;
}

void check_copies() {
  constexpr unsigned kThreads = 64;
  std::vector<uint4> from(kThreads);
  for (unsigned i = 0; i < kThreads; ++i) from[i] = {100 + i, 0, 0, 200 + i};
  std::vector<unsigned> early(kThreads), late(kThreads);
  for (const bool all : {true, false}) {
    launch(copy_kernel, dim3(2), dim3(kThreads), kThreads * sizeof(uint4), nullptr, from.data(),
           early.data(), late.data(), all);
    for (unsigned i = 0; i < kThreads; ++i) {
      const unsigned other = (i + 1) % kThreads;
      CHECK(early[i] == 0xffffffffu, "%u was there before the wait", early[i]);
      const unsigned want = all || other + 1 < kThreads ? 200 + other : 0;
      CHECK(late[i] == want, "%u arrived, not %u", late[i], want);
    }
  }
}

/// Of a word as float, and back.
template <class F>
float through(float x, const F& f) {
  uint32_t word;
  std::memcpy(&word, &x, sizeof word);
  word = f(word);
  std::memcpy(&x, &word, sizeof x);
  return x;
}

void check_operands() {
  const auto tf32 = [](float x) { return through(x, TensorCore<float>::operand); };
  const auto relu = [](float x) { return through(x, TensorCore<float>::rectified); };
  CHECK(tf32(1.0f + 0x1p-11f) == 1.0f + 0x1p-10f, "a tie is not rounded away from zero");
  CHECK(tf32(-1.0f - 0x1p-12f) == -1.0f, "a number below a tie is not rounded to zero's side");
  CHECK(std::isinf(tf32(INFINITY)) && std::isnan(tf32(NAN)), "infinity or NaN is lost");
  CHECK(relu(-3.0f) == 0.0f && relu(2.0f) == 2.0f && std::isnan(relu(NAN)), "a wrong ReLU");
  const auto both = TensorCore<__nv_bfloat16>::rectified;
  CHECK(both(0xbf803f80u) == 0x00003f80u && both(0x3f80bf80u) == 0x3f800000u, "a wrong pair");
  CHECK(both(0xffc0ff80u) == 0xffc00000u, "NaN is lost, or an infinity stays");
}

// ---- kernels that are wrong ----

enum class Fault { kNoWait, kNoBarrier, kDeserted, kOverwritten, kNotRounded, kNotAligned };

void wrong_kernel(const uint4* from, unsigned* to, Fault fault) {
  auto* const shared = dynamic_shared<uint4>();
  const unsigned me = threadIdx.x;
  const unsigned other = (me + 1) % blockDim.x;
  const bool crooked = fault == Fault::kNotAligned;
  copy_async(reinterpret_cast<unsigned char*>(shared + me) + (crooked ? 8 : 0), from + me, true);
  if (fault != Fault::kNoWait) wait_for_copies();
  if (fault == Fault::kDeserted && me == 0) return;
  if (fault != Fault::kNoBarrier) __syncthreads();
  to[me] = shared[other].x;
  if (fault == Fault::kOverwritten) {  // while the neighbour may still read
    copy_async(shared + me, from + other, true);
    __syncthreads();
    wait_for_copies();
  }
  if (fault == Fault::kNotRounded) {
    float d[4] = {};
    const uint32_t a[4] = {0x3f800001u, 0, 0, 0};
    const uint32_t b[2] = {};
    TensorCore<float>::multiply(d, a, b);
  }
}

int run_wrong(const std::string& name) {
  // Ends as a program does that fails a check, whatever a harness makes of signals.
  std::signal(SIGABRT, [](int) { std::_Exit(1); });
  const std::pair<const char*, Fault> faults[] = {
      {"no-wait", Fault::kNoWait},         {"no-barrier", Fault::kNoBarrier},
      {"deserted", Fault::kDeserted},      {"overwritten", Fault::kOverwritten},
      {"not-rounded", Fault::kNotRounded}, {"not-aligned", Fault::kNotAligned}};
  for (const auto& [word, fault] : faults) {
    if (name != word) continue;
    std::vector<uint4> from(kWarp);
    std::vector<unsigned> to(kWarp);
    launch(wrong_kernel, dim3(1), dim3(kWarp), (kWarp + 1) * sizeof(uint4), nullptr, from.data(),
           to.data(), fault);
    return 0;
  }
  std::fprintf(stderr, "no such fault: %s\n", name.c_str());
  return 2;
}

}  // namespace

int main(int count, char** words) {
  if (count > 1) return run_wrong(words[1]);
  std::mt19937 random(1);
  for (int i = 0; i < 4; ++i) {
    check_product<__nv_bfloat16, 16>(random);
    check_product<float, 8>(random);
  }
  check_loads();
  check_copies();
  check_operands();
  if (failures == 0) std::printf("simt: all cases pass\n");
  return failures;
}

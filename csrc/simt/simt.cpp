#include <bit>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "crew.h"
#include "cuda_runtime.h"

namespace simt {

Device device;
Counters counters;

namespace {

constexpr int kWarp = 32;
constexpr size_t kLaneBytes = 24;  // the operands of one lane in a product

/// Two buffers taken in turn: a lane that writes the next one has passed the barrier before it,
/// and so has every lane that still read the last but one.
struct Warp {
  Barrier barrier{kWarp};
  unsigned char lanes[2][kWarp][kLaneBytes];
};

struct Block {
  Barrier barrier;
  std::vector<std::unique_ptr<Warp>> warps;
  std::unique_ptr<unsigned char[]> shared;

  Block(unsigned threads, size_t shared_bytes) : barrier(threads) {
    for (unsigned i = 0; i < threads / kWarp; ++i) warps.push_back(std::make_unique<Warp>());
    // operator new aligns to 16, as the kernels may assume of dynamic shared memory.
    shared.reset(new unsigned char[shared_bytes]);
  }
};

struct Launch {
  dim3 grid;
  dim3 block;
  size_t shared_bytes;
  const std::function<void()>* body;
  unsigned threads;  // of a block
  Barrier barrier;
  std::vector<std::unique_ptr<Block>> cluster;

  Launch(dim3 grid_, dim3 block_, size_t shared_bytes_, unsigned blocks,
         const std::function<void()>& body_)
      : grid(grid_),
        block(block_),
        shared_bytes(shared_bytes_),
        body(&body_),
        threads(block_.x * block_.y * block_.z),
        barrier(threads * blocks) {
    for (unsigned i = 0; i < blocks; ++i)
      cluster.push_back(std::make_unique<Block>(threads, shared_bytes));
  }

  unsigned all_threads() const { return threads * static_cast<unsigned>(cluster.size()); }
};

struct Copy {
  void* to;
  const void* from;
  bool there;
};
constexpr size_t kCopyBytes = 16;

/// What belongs to the CUDA thread that runs here, beside its threadIdx and the like.
struct Here {
  unsigned rank = 0;  // of the block in its cluster
  unsigned thread_index = 0;
  unsigned exchanges = 0;
  std::optional<Barrier::Token> arrival;
  std::vector<Copy> copies;  // under way
};
thread_local Launch* current;
thread_local Here here;

/// f() waits. Other CUDA threads may run here meanwhile.
template <class F>
void wait(const F& f) {
  Here mine = std::move(here);
  const uint3 thread = threadIdx, block = blockIdx;
  f();
  here = std::move(mine);
  threadIdx = thread;
  blockIdx = block;
}

void meet(Barrier& barrier) {
  wait([&] { barrier.arrive_and_wait(); });
}

Block& block() { return *current->cluster[here.rank]; }

/// The life of one CUDA thread position: all clusters of the grid, one after another.
void execute(Launch& launch, unsigned of_all) {
  current = &launch;
  here = {};
  here.rank = of_all / launch.threads;
  const unsigned index = of_all % launch.threads;
  here.thread_index = index;
  const dim3 b = launch.block;
  threadIdx = {index % b.x, index / b.x % b.y, index / (b.x * b.y)};
  blockDim = b;
  gridDim = launch.grid;
  for (unsigned z = 0; z < launch.grid.z; ++z)
    for (unsigned y = 0; y < launch.grid.y; ++y)
      for (unsigned x = 0; x < launch.grid.x; x += static_cast<unsigned>(launch.cluster.size())) {
        blockIdx = {x + here.rank, y, z};
        // All bits set are NaNs and absurd integers: nothing survives from the last block.
        if (index == 0) std::memset(block().shared.get(), 0xff, launch.shared_bytes);
        meet(launch.barrier);
        (*launch.body)();
        if (!here.copies.empty()) fail("a thread ended before its copies had arrived");
        meet(launch.barrier);
      }
}

Warp& warp(unsigned mask) {
  if (mask != 0xffffffffu) fail("a warp operation must name all 32 lanes");
  return *block().warps[here.thread_index / kWarp];
}

using Lanes = const unsigned char (*)[kLaneBytes];

/// Every lane leaves `bytes`; what all of them left, until this lane's next deposit but one.
Lanes deposit(unsigned mask, const void* mine, size_t bytes) {
  Warp& w = warp(mask);
  auto& buffer = w.lanes[here.exchanges++ % 2];
  std::memcpy(buffer[lane()], mine, bytes);
  meet(w.barrier);
  return buffer;
}

/// Towards zero, as tensor cores round their sums.
float cut(double x) {
  const auto nearest = static_cast<float>(x);
  return std::fabs(static_cast<double>(nearest)) > std::fabs(x) ? std::nextafterf(nearest, 0.0f)
                                                                : nearest;
}

/// D += A B with A [16, K], B [K, 8]; element(word, half) is what a register holds. The products
/// are exact and added in double; in what order a device adds them is its own affair.
template <int K, class Element>
void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
              const Element& element) {
  struct {
    uint32_t a[4], b[2];
  } mine{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}}, theirs;
  static_assert(sizeof mine <= kLaneBytes);
  const auto lanes = deposit(0xffffffffu, &mine, sizeof mine);
  constexpr int kEach = K / 8;  // elements of a register
  for (int i = 0; i < 4; ++i) {
    const int row = lane() / 4 + 8 * (i / 2);
    const int column = 2 * (lane() % 4) + i % 2;
    double sum = d[i];
    for (int k = 0; k < K; ++k) {
      const int quarter = k / kEach % 4;  // of the lanes with the same row or column
      const int upper = k / (4 * kEach);
      std::memcpy(&theirs, lanes[row % 8 * 4 + quarter], sizeof theirs);
      const double left = element(theirs.a[row / 8 + 2 * upper], k % kEach);
      std::memcpy(&theirs, lanes[column * 4 + quarter], sizeof theirs);
      sum += left * element(theirs.b[upper], k % kEach);
    }
    d[i] = cut(sum);
  }
}

/// All bytes of a copy's target, by stores that ThreadSanitizer sees: g++ hides those of a memset.
void fill(void* target, uint64_t bits) {
  static_cast<uint64_t*>(target)[0] = bits;
  static_cast<uint64_t*>(target)[1] = bits;
}

void check_aligned(const void* address) {
  if (reinterpret_cast<uintptr_t>(address) % kCopyBytes != 0)
    fail("an address that must be a multiple of 16 bytes is not");
}

}  // namespace

void run(dim3 grid, dim3 block, size_t shared, unsigned cluster,
         const std::function<void()>& body) {
  const unsigned threads = block.x * block.y * block.z;
  if (threads == 0 || threads % kWarp != 0) fail("a block must be a whole number of warps");
  if (threads > 1024) fail("a block has at most 1024 threads");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) fail("a grid needs at least one block");
  if (cluster == 0 || cluster > 8 || grid.x % cluster != 0)
    fail("a cluster is 1 to 8 blocks, and a grid a whole number of clusters");
  if (shared > static_cast<size_t>(device.shared_per_block))
    fail("the block asks for more shared memory than the device has");
  Launch launch(grid, block, shared, cluster, body);
  ++counters.launches;
  counters.blocks += static_cast<long>(grid.x) * grid.y * grid.z;
  crew().run(launch.all_threads(), [&](unsigned index) { execute(launch, index); });
}

void* dynamic_shared() { return block().shared.get(); }

void sync_block() { meet(block().barrier); }

int cluster_rank() { return static_cast<int>(here.rank); }

void* shared_of(int other) {
  if (other < 0 || other >= static_cast<int>(current->cluster.size())) fail("no such block");
  return current->cluster[static_cast<size_t>(other)]->shared.get();
}

void arrive_at_cluster() { here.arrival.emplace(current->barrier.arrive()); }

void wait_for_cluster() {
  if (!here.arrival) fail("a cluster is waited for after arriving");
  Barrier::Token token = std::move(*here.arrival);
  here.arrival.reset();
  wait([&] { current->barrier.wait(std::move(token)); });
}

void sync_warp(unsigned mask) { meet(warp(mask).barrier); }

int lane() { return static_cast<int>(here.thread_index % kWarp); }

void exchange(unsigned mask, const void* mine, void* theirs, size_t bytes, int source) {
  std::memcpy(theirs, deposit(mask, mine, bytes)[source], bytes);
}

unsigned ballot(unsigned mask, bool predicate) {
  const auto lanes = deposit(mask, &predicate, sizeof predicate);
  unsigned bits = 0;
  for (int i = 0; i < kWarp; ++i) bits |= static_cast<unsigned>(lanes[i][0]) << i;
  return bits;
}

void multiply_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  multiply<16>(d, a, b, [](uint32_t word, int half) {
    return std::bit_cast<float>(half ? word & 0xffff0000u : word << 16);
  });
}

void multiply_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  for (const uint32_t word : {a[0], a[1], a[2], a[3], b[0], b[1]})
    if ((word & 0x1fffu) != 0) fail("an operand was not rounded to TF32");
  multiply<8>(d, a, b, [](uint32_t word, int) { return std::bit_cast<float>(word); });
}

void load_matrices(uint32_t (&registers)[4], const void* row, bool transposed) {
  check_aligned(row);
  const auto lanes = deposit(0xffffffffu, &row, sizeof row);
  const auto element = [&](int matrix, int of_row, int column) {
    const unsigned char* from;
    std::memcpy(&from, lanes[8 * matrix + of_row], sizeof from);
    uint16_t value;
    std::memcpy(&value, from + 2 * column, sizeof value);
    return static_cast<uint32_t>(value);
  };
  const int major = lane() / 4;
  const int minor = 2 * (lane() % 4);
  for (int j = 0; j < 4; ++j)
    registers[j] = transposed ? element(j, minor, major) | element(j, minor + 1, major) << 16
                              : element(j, major, minor) | element(j, major, minor + 1) << 16;
}

void copy_async(void* shared, const void* global, bool there) {
  check_aligned(shared);
  check_aligned(global);
  fill(shared, ~uint64_t{0});
  here.copies.push_back({shared, global, there});
}

void wait_for_copies() {
  for (const Copy& copy : here.copies) {
    if (copy.there)
      std::memcpy(copy.to, copy.from, kCopyBytes);
    else
      fill(copy.to, 0);
  }
  here.copies.clear();
}

}  // namespace simt

cudaError_t cudaGetDevice(int* index) {
  *index = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = simt::device.max_threads;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = simt::device.capability;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = simt::device.multiprocessors;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = simt::device.shared_per_block;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = simt::device.shared_per_multiprocessor;
      return cudaSuccess;
  }
  return cudaErrorInvalidValue;
}

cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int value) {
  return value <= simt::device.shared_per_block ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaGetLastError() { return cudaSuccess; }

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid argument";
}

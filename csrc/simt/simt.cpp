#include <barrier>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "cuda_runtime.h"

namespace simt {

Device device;
Counters counters;

namespace {

constexpr int kWarp = 32;
constexpr size_t kLaneBytes = 16;

[[noreturn]] void fail(const char* sentence) {
  std::fprintf(stderr, "simt: %s\n", sentence);
  std::abort();
}

/// Two buffers taken in turn: a lane that writes the next one has passed the barrier before it,
/// and so has every lane that still read the last but one.
struct Warp {
  std::barrier<> barrier{kWarp};
  unsigned char lanes[2][kWarp][kLaneBytes];
};

struct Block {
  std::barrier<> barrier;
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
  std::barrier<> barrier;
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

thread_local Launch* current;
thread_local unsigned rank;  // of the block in its cluster
thread_local unsigned thread_index;
thread_local unsigned exchanges;
thread_local std::optional<std::barrier<>::arrival_token> arrival;

Block& block() { return *current->cluster[rank]; }

/// The life of one CUDA thread position: all clusters of the grid, one after another.
void execute(Launch& launch, unsigned of_all) {
  current = &launch;
  rank = of_all / launch.threads;
  const unsigned index = of_all % launch.threads;
  thread_index = index;
  exchanges = 0;
  const dim3 b = launch.block;
  threadIdx = {index % b.x, index / b.x % b.y, index / (b.x * b.y)};
  blockDim = b;
  gridDim = launch.grid;
  for (unsigned z = 0; z < launch.grid.z; ++z)
    for (unsigned y = 0; y < launch.grid.y; ++y)
      for (unsigned x = 0; x < launch.grid.x; x += static_cast<unsigned>(launch.cluster.size())) {
        blockIdx = {x + rank, y, z};
        // All bits set are NaNs and absurd integers: nothing survives from the last block.
        if (index == 0) std::memset(block().shared.get(), 0xff, launch.shared_bytes);
        launch.barrier.arrive_and_wait();
        (*launch.body)();
        launch.barrier.arrive_and_wait();
      }
}

/// Threads are kept between launches, because starting one costs more than most blocks do.
class Pool {
 public:
  void run(Launch& launch) {
    std::unique_lock<std::mutex> lock(mutex_);
    while (threads_.size() < launch.all_threads()) {
      const unsigned index = static_cast<unsigned>(threads_.size());
      threads_.emplace_back([this, index, seen = generation_] { work(index, seen); });
    }
    launch_ = &launch;
    running_ = launch.all_threads();
    ++generation_;
    start_.notify_all();
    done_.wait(lock, [this] { return running_ == 0; });
    launch_ = nullptr;
  }

  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    start_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  void work(unsigned index, long seen) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      start_.wait(lock, [&] { return stopping_ || generation_ != seen; });
      if (stopping_) return;
      seen = generation_;
      if (launch_ == nullptr || index >= launch_->all_threads()) continue;
      Launch& launch = *launch_;
      lock.unlock();
      execute(launch, index);
      lock.lock();
      if (--running_ == 0) done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable start_;
  std::condition_variable done_;
  std::vector<std::thread> threads_;
  Launch* launch_ = nullptr;
  unsigned running_ = 0;
  long generation_ = 0;
  bool stopping_ = false;
};

Warp& warp(unsigned mask) {
  if (mask != 0xffffffffu) fail("a warp operation must name all 32 lanes");
  return *block().warps[thread_index / kWarp];
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
  static Pool pool;
  Launch launch(grid, block, shared, cluster, body);
  ++counters.launches;
  counters.blocks += static_cast<long>(grid.x) * grid.y * grid.z;
  pool.run(launch);
}

void* dynamic_shared() { return block().shared.get(); }

void sync_block() { block().barrier.arrive_and_wait(); }

int cluster_rank() { return static_cast<int>(rank); }

void* shared_of(int other) {
  if (other < 0 || other >= static_cast<int>(current->cluster.size())) fail("no such block");
  return current->cluster[static_cast<size_t>(other)]->shared.get();
}

void arrive_at_cluster() { arrival.emplace(current->barrier.arrive()); }

void wait_for_cluster() {
  if (!arrival) fail("a cluster is waited for after arriving");
  current->barrier.wait(std::move(*arrival));
  arrival.reset();
}

void sync_warp(unsigned mask) { warp(mask).barrier.arrive_and_wait(); }

int lane() { return static_cast<int>(thread_index % kWarp); }

void exchange(unsigned mask, const void* mine, void* theirs, size_t bytes, int source) {
  Warp& w = warp(mask);
  auto& buffer = w.lanes[exchanges++ % 2];
  std::memcpy(buffer[lane()], mine, bytes);
  w.barrier.arrive_and_wait();
  std::memcpy(theirs, buffer[source], bytes);
}

unsigned ballot(unsigned mask, bool predicate) {
  Warp& w = warp(mask);
  auto& buffer = w.lanes[exchanges++ % 2];
  buffer[lane()][0] = predicate;
  w.barrier.arrive_and_wait();
  unsigned bits = 0;
  for (int i = 0; i < kWarp; ++i) bits |= static_cast<unsigned>(buffer[i][0]) << i;
  return bits;
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

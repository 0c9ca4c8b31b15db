// Large results on the CPU. malloc gives large blocks back to the system at once and gets them as
// pages yet to be zeroed: for 100 MB that takes longer than sn-softmax does.
#include "result.h"

#ifdef __linux__
#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>

#include <mutex>
#include <vector>
#endif

namespace snsoftmax {

#ifdef __linux__

namespace {

constexpr size_t kHuge = size_t{1} << 21;  // bytes of a huge page
constexpr size_t kLarge = 4 * kHuge;
constexpr size_t kPastCaches = 12 * kHuge;  // measured: 16 MiB lose by it, 30 MiB gain
constexpr size_t kKept = 4;                 // a result and its gradient, for two operators in turn

size_t whole_pages(size_t bytes) { return (bytes + kHuge - 1) / kHuge * kHuge; }

struct Block {
  char* start = nullptr;  // of a huge page
  size_t bytes = 0;
  bool mapped = false;
};

/// Fresh memory, or a block without a start where there is none.
Block map(size_t bytes) {
  void* const memory =
      mmap(nullptr, bytes + kHuge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return {};
  char* const begin = static_cast<char*>(memory);
  const size_t head = -reinterpret_cast<uintptr_t>(begin) % kHuge;
  if (head > 0) munmap(begin, head);
  munmap(begin + head + bytes, kHuge - head);
  madvise(begin + head, bytes, MADV_HUGEPAGE);
  return {begin + head, bytes, false};
}

/// Freed blocks, the oldest first. Nobody waits for the lock, so that a child forked while it was
/// held goes on.
class Pool {
 public:
  Block take(size_t bytes) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (lock) {
      for (auto block = blocks_.rbegin(); block != blocks_.rend(); ++block) {
        if (block->bytes != bytes) continue;
        const Block found = *block;
        blocks_.erase(std::next(block).base());
        return found;
      }
    }
    return map(bytes);
  }

  void give(Block block) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock || madvise(block.start, block.bytes, MADV_FREE) != 0) {
      munmap(block.start, block.bytes);
      return;
    }
    block.mapped = true;
    blocks_.push_back(block);
    if (blocks_.size() > kKept) {
      munmap(blocks_.front().start, blocks_.front().bytes);
      blocks_.erase(blocks_.begin());
    }
  }

 private:
  std::mutex mutex_;
  std::vector<Block> blocks_;
};

Pool& pool() {
  static Pool& everlasting = *new Pool();  // tensors may outlive static objects
  return everlasting;
}

void give_back(void* context) {
  auto* const block = static_cast<Block*>(context);
  c10::profiledCPUMemoryReporter().Delete(block->start);
  pool().give(*block);
  delete block;
}

}  // namespace

Result result_like(const at::Tensor& like) {
  if (!like.is_cpu() || like.nbytes() < kLarge) return {at::empty_like(like), false};
  const Block block = pool().take(whole_pages(like.nbytes()));
  if (block.start == nullptr) return {at::empty_like(like), false};  // says what is missing
  c10::profiledCPUMemoryReporter().New(block.start, block.bytes);
  c10::Storage storage(c10::Storage::use_byte_size_t(), like.nbytes(),
                       at::DataPtr(block.start, new Block(block), give_back, like.device()),
                       c10::GetCPUAllocator(), /*resizable=*/true);
  at::Tensor tensor = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU), like.dtype());
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides());
  return {tensor, block.mapped && block.bytes >= kPastCaches};
}

#else

Result result_like(const at::Tensor& like) { return {at::empty_like(like), false}; }

#endif

}  // namespace snsoftmax

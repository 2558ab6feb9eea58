// Scratch memory of kernels, aligned to the lines of the cache: no vector lies in two of them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>

namespace segcore {

constexpr std::align_val_t kCacheLine{64};

struct DeleteScratch {
  void operator()(void* memory) const { ::operator delete(memory, kCacheLine); }
};
template <typename T>
using Scratch = std::unique_ptr<T[], DeleteScratch>;

// Memory for so many numbers, which have no value yet.
template <typename T>
Scratch<T> make_scratch(int64_t count) {
  return Scratch<T>(static_cast<T*>(::operator new(count * sizeof(T), kCacheLine)));
}

// The same, all 0.
template <typename T>
Scratch<T> make_zeroed_scratch(int64_t count) {
  Scratch<T> scratch = make_scratch<T>(count);
  std::fill_n(scratch.get(), count, T(0));
  return scratch;
}

}  // namespace segcore
